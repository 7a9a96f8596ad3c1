// Clips: the playhead follows the clip over frames and spectrogram; one clip at a time is heard.
let inTurn = [];
let sounding = null;
const shelf = new Map();
// A clip's data are read when it comes near the screen, and decoded when it is to play.
function clipData(number) {
  if (!shelf.has(number)) shelf.set(number, JSON.parse(document.getElementById(`clip-${number}`).textContent));
  return shelf.get(number);
}
function dress(box) {
  const data = clipData(box.dataset.clip);
  box.querySelector("video").poster = data.poster;
  box.querySelector(".timeline img").src = data.timeline;
}
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    near.unobserve(entry.target);
    dress(entry.target);
  }
}, { rootMargin: "400px" });
function load(video) {
  if (video.src) return;
  const data = clipData(video.closest(".player").dataset.clip);
  data.url ??= URL.createObjectURL(
    new Blob([Uint8Array.from(atob(data.mp4), (char) => char.charCodeAt(0))], { type: "video/mp4" }),
  );
  video.src = data.url;
}
const players = new Map();
for (const box of document.querySelectorAll(".player")) {
  const video = box.querySelector("video"), line = box.querySelector(".timeline");
  const head = box.querySelector(".playhead"), button = box.querySelector(".play");
  const seconds = Number(box.dataset.seconds), name = video.getAttribute("aria-label");
  near.observe(box);
  const draw = () => {
    const now = Math.min(video.currentTime, seconds);
    head.style.left = `${(100 * now) / seconds}%`;
    line.setAttribute("aria-valuenow", now.toFixed(2));
    line.setAttribute("aria-valuetext", `${now.toFixed(2)} s`);
  };
  const move = () => {
    draw();
    if (!video.paused) requestAnimationFrame(move);
  };
  const seek = (time) => {
    load(video);
    const jump = () => { video.currentTime = Math.max(0, Math.min(time, seconds - 0.001)); };
    if (video.readyState) jump();
    else video.addEventListener("loadedmetadata", jump, { once: true });
  };
  const play = () => {
    load(video);
    if (sounding && sounding !== video) sounding.pause();
    sounding = video;
    // A pause before the first frame is there takes the wish back; that is no error.
    return video.play().catch((error) => { if (error.name !== "AbortError") throw error; });
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
    move();
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
addEventListener("beforeprint", () => document.querySelectorAll(".player").forEach(dress));
