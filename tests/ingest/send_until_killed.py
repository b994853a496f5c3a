"""A car's uploader as a process to be killed: python send_until_killed.py URL CREDENTIAL QUEUE [CODE]."""

import sys

from drivefoundry_car.upload.enrol import Credential
from drivefoundry_car.upload.uploader import Uploader, UploadLimits

if __name__ == "__main__":
    url, file, queue, *code = sys.argv[1:]
    credential = Credential(url, file)
    if code:
        credential.enrol(code[0])
    uploader = Uploader(url, credential, queue, UploadLimits(backoff=0.02, attempts=40))
    print("begins", flush=True)
    for receipt in uploader.send_all():
        print(receipt.sha256, receipt.sent, flush=True)
