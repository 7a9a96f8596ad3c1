"use strict";
// Tables: a heading sorts its own table, best first, then worst first. References stay where they are.
for (const head of document.querySelectorAll("thead th[aria-sort]")) {
  head.querySelector("button").addEventListener("click", () => {
    const table = head.closest("table"), place = head.cellIndex, best = head.dataset.best;
    const rising = best !== "higher";
    const first = rising ? "ascending" : "descending";
    const way = head.getAttribute("aria-sort") === first ? (rising ? "descending" : "ascending") : first;
    for (const other of table.querySelectorAll("thead th[aria-sort]")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", way);
    const body = table.querySelector("tbody.arms"), sign = way === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row) => [row.cells[place].dataset.value, row]);
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * (best === "name" ? a.localeCompare(b) : Number(a) - Number(b));
    });
    body.append(...rows.map(([, row]) => row));
  });
}

// What lies behind a number, on pointing, tapping or tabbing to it.
const tip = document.getElementById("tip");
function showTip(cell) {
  tip.textContent = cell.dataset.tip;
  tip.hidden = false;
  const at = cell.getBoundingClientRect(), size = tip.getBoundingClientRect();
  const above = at.top - size.height - 8;
  tip.style.top = `${above > 8 ? above : at.bottom + 8}px`;
  tip.style.left = `${Math.max(12, Math.min(at.left, innerWidth - size.width - 12))}px`;
  cell.setAttribute("aria-describedby", "tip");
}
function hideTip(cell) {
  tip.hidden = true;
  cell.removeAttribute("aria-describedby");
}
for (const cell of document.querySelectorAll("[data-tip]")) {
  for (const name of ["pointerenter", "focus"]) cell.addEventListener(name, () => showTip(cell));
  for (const name of ["pointerleave", "blur"]) cell.addEventListener(name, () => hideTip(cell));
}
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

// Clips: the playhead follows the clip over frames and spectrogram; one clip at a time is heard.
let inTurn = [];
let sounding = null;
function load(video) {
  if (video.src) return;
  const bytes = Uint8Array.from(atob(video.dataset.mp4), (char) => char.charCodeAt(0));
  video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
  delete video.dataset.mp4;
}
const players = new Map();
for (const box of document.querySelectorAll(".player")) {
  const video = box.querySelector("video"), line = box.querySelector(".timeline");
  const head = box.querySelector(".playhead"), button = box.querySelector(".play");
  const seconds = Number(box.dataset.seconds), name = video.getAttribute("aria-label");
  const draw = () => {
    const now = Math.min(video.currentTime, seconds);
    head.style.left = `${(100 * now) / seconds}%`;
    line.setAttribute("aria-valuenow", now.toFixed(2));
    line.setAttribute("aria-valuetext", `${now.toFixed(2)} s`);
  };
  const follow = () => {
    draw();
    if (!video.paused) requestAnimationFrame(follow);
  };
  const seek = (time) => {
    load(video);
    const move = () => { video.currentTime = Math.max(0, Math.min(time, seconds - 0.001)); };
    if (video.readyState) move();
    else video.addEventListener("loadedmetadata", move, { once: true });
  };
  const play = () => {
    load(video);
    if (sounding && sounding !== video) sounding.pause();
    sounding = video;
    return video.play();
  };
  const toggle = () => {
    inTurn = [];
    if (video.paused) play();
    else video.pause();
  };
  players.set(box, play);
  button.addEventListener("click", toggle);
  video.addEventListener("play", () => {
    box.classList.add("playing");
    button.setAttribute("aria-label", `Pause ${name}`);
    follow();
  });
  video.addEventListener("pause", () => {
    box.classList.remove("playing");
    button.setAttribute("aria-label", `Play ${name}`);
  });
  for (const event of ["timeupdate", "seeked"]) video.addEventListener(event, draw);
  video.addEventListener("ended", () => { const next = inTurn.shift(); if (next) players.get(next)(); });
  const at = (event) => {
    const area = line.getBoundingClientRect();
    seek((seconds * (event.clientX - area.left)) / area.width);
  };
  line.addEventListener("pointerdown", (event) => { line.setPointerCapture(event.pointerId); at(event); });
  line.addEventListener("pointermove", (event) => { if (line.hasPointerCapture(event.pointerId)) at(event); });
  line.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.05, ArrowRight: 0.05, ArrowDown: -0.05, ArrowUp: 0.05 }[event.key];
    if (step) seek(video.currentTime + step);
    else if (event.key === "Home") seek(0);
    else if (event.key === "End") seek(seconds);
    else if (event.key === " " || event.key === "Enter") toggle();
    else return;
    event.preventDefault();
  });
}
for (const button of document.querySelectorAll(".in-turn")) {
  button.addEventListener("click", () => {
    const [first, ...rest] = button.closest(".prompt").querySelectorAll(".player");
    if (!first) return;
    inTurn = rest;
    first.querySelector("video").currentTime = 0;
    players.get(first)();
  });
}
