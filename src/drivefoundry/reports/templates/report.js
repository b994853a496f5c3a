"use strict";
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
// Films: the sentence that holds at the film's time is shown large and marked in the list; a click on a sentence goes there.
for (const film of document.querySelectorAll(".film")) {
  const video = film.querySelector("video");
  const rows = [...film.querySelectorAll("li[data-t]")];
  if (!video) continue;
  const saying = film.querySelector(".saying");
  const list = film.querySelector("ol");
  let shown = -1;
  const show = () => {
    let now = 0;
    rows.forEach((row, i) => { if (Number(row.dataset.t) <= video.currentTime + 0.05) now = i; });
    if (now === shown || !rows.length) return;
    if (shown >= 0) rows[shown].classList.remove("now");
    shown = now;
    rows[now].classList.add("now");
    saying.textContent = rows[now].querySelector("span").textContent;
    list.scrollTo({ top: rows[now].offsetTop - list.clientHeight / 2 + rows[now].clientHeight / 2, behavior: still ? "auto" : "smooth" });
  };
  const follow = () => { show(); if (!video.paused) requestAnimationFrame(follow); };
  video.addEventListener("play", follow);
  video.addEventListener("seeked", show);
  rows.forEach((row) => row.firstChild.addEventListener("click", () => { video.currentTime = Number(row.dataset.t) + 0.01; video.play(); }));
  new IntersectionObserver(([entry]) => { if (!entry.isIntersecting) video.pause(); }).observe(video);
  show();
}
// Line charts: values under the pointer.
const tip = document.body.appendChild(Object.assign(document.createElement("div"), { className: "tip" }));
const digits = (v) => Number(v.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 });
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const { series, x: [low, high, left, right] } = JSON.parse(svg.dataset.chart);
  const cursor = svg.querySelector(".cursor");
  const hide = () => { tip.style.visibility = "hidden"; cursor.style.visibility = "hidden"; };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    if (at < left || at > right) return hide();
    const x = low + ((at - left) / (right - left)) * (high - low);
    tip.replaceChildren();
    for (const [name, points] of Object.entries(series)) {
      const [px, py] = points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
      const line = tip.appendChild(document.createElement("div"));
      line.append(`${name} `, Object.assign(document.createElement("b"), { textContent: digits(py) }), ` at ${digits(px)}`);
    }
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.style.visibility = "visible";
    tip.style.visibility = "visible";
    tip.style.left = `${Math.min(event.pageX + 14, document.documentElement.clientWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${event.pageY - tip.offsetHeight - 12}px`;
  });
}
