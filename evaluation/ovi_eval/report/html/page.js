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

// A table wider than the screen says so, and fades at the side where more of it is.
function cue(box) {
  const more = box.scrollWidth - box.clientWidth > 1;
  box.classList.toggle("more-right", more && box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  box.previousElementSibling.hidden = !more;
}
const widths = new ResizeObserver((entries) => { for (const entry of entries) cue(entry.target.closest(".scroll")); });
for (const box of document.querySelectorAll(".scroll")) {
  const hint = document.createElement("p");
  hint.className = "cue";
  hint.hidden = true;
  hint.textContent = "Scroll sideways for all columns \u2194";
  box.before(hint);
  box.addEventListener("scroll", () => cue(box), { passive: true });
  for (const part of [box, box.firstElementChild]) widths.observe(part);
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
// Tabbing to a number may scroll it into view: its tip goes with it, while one under the pointer goes away.
addEventListener("scroll", () => {
  if (tip.hidden) return;
  if (document.activeElement?.matches("[aria-describedby=tip]")) showTip(document.activeElement);
  else tip.hidden = true;
}, { passive: true, capture: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

// Filters: columns, plots, prompts and published tables of one benchmark, variant or metric. The address holds the choice.
const form = document.querySelector(".filters");
const KEYS = ["benchmark", "variant", "metric"];
const chosen = () => (form ? KEYS.map((key) => [key, form.elements[key]?.value ?? ""]) : []);
function passes(element, keys = KEYS) {
  return chosen().every(([key, value]) => {
    if (!value || !keys.includes(key)) return true;
    // A metric's name with a star is all of its group.
    if (key === "metric" && value.endsWith("*")) return element.dataset.group === value.slice(0, -1);
    return element.dataset[key] === value;
  });
}
function filterTable(table) {
  const heads = [...table.querySelectorAll("thead th")];
  const shown = heads.map((head, place) => place === 0 || passes(head));
  const count = shown.filter(Boolean).length - 1;
  for (const row of table.rows) {
    [...row.cells].forEach((cell, place) => { cell.hidden = !shown[place]; });
    row.hidden = !row.closest("thead") && [...row.cells].slice(1).every((cell) => cell.hidden || cell.matches(".none"));
  }
  table.closest(".board").hidden = !count;
  return [count, heads.length - 1];
}
function hideEmpty(selector, inner) {
  for (const box of document.querySelectorAll(selector)) {
    box.hidden = ![...box.querySelectorAll(inner)].some((part) => !part.hidden);
  }
}
// The first prompt of what is chosen is open, the others are folded and counted.
const prompts = [...document.querySelectorAll(".prompt")], folded = document.querySelector(".more-prompts");
function filterPrompts() {
  for (const prompt of prompts) prompt.hidden = !passes(prompt, ["benchmark"]);
  const [first, ...others] = prompts.filter((prompt) => !prompt.hidden);
  document.querySelector(".no-prompt").hidden = Boolean(first) || !prompts.length;
  if (!folded) return;
  if (first && first.nextElementSibling !== folded) {
    folded.append(...prompts.filter((prompt) => prompt !== first));
    folded.before(first);
  }
  folded.hidden = !others.length;
  folded.querySelector("summary").textContent = `${others.length} more ${others.length === 1 ? "prompt" : "prompts"}`;
}
// What a mark on values means is said while one is to be seen.
function filterLegends() {
  const shown = [...document.querySelectorAll("#table .arms .value")].filter((value) => !value.closest("[hidden]"));
  for (const legend of document.querySelectorAll(".legend")) {
    legend.hidden = !shown.some((value) => value.textContent.includes(legend.dataset.mark));
  }
}
function applyFilters() {
  if (!form) return;
  const counts = [...document.querySelectorAll("#table table")].map(filterTable);
  hideEmpty("#table .benchmark", ".board");
  for (const part of document.querySelectorAll(".plot, #references tr[data-metric]")) part.hidden = !passes(part);
  hideEmpty("#references .benchmark", "tr[data-metric]");
  hideEmpty("#references", ".benchmark");
  hideEmpty("#plots .benchmark", ".plot");
  filterPrompts();
  filterLegends();
  for (const part of document.querySelectorAll("#published .benchmark")) part.hidden = !passes(part, ["benchmark"]);
  for (const part of document.querySelectorAll("#published details")) part.open = part.dataset.benchmark === form.elements.benchmark?.value;
  for (const note of document.querySelectorAll(".nothing")) {
    const parts = note.parentElement.querySelectorAll(".benchmark");
    note.hidden = [...parts].some((part) => !part.hidden);
  }
  const [left, all] = counts.reduce(([a, b], [c, d]) => [a + c, b + d], [0, 0]);
  const some = chosen().some(([, value]) => value);
  form.querySelector("[role=status]").textContent = some ? `${left} of ${all} columns` : "";
  form.querySelector("[type=reset]").hidden = !some;
}

// The address: #model=NAME is that model's page, by CSS alone; #benchmark=…&variant=…&metric=… are the filters.
const title = document.title;
let home = "#table", height = 0;
function address() {
  const words = new URLSearchParams();
  for (const [key, value] of chosen()) if (value) words.set(key, value);
  return words.size ? `#${words}` : location.pathname + location.search;
}
function follow() {
  const page = location.hash.startsWith("#model=") ? document.querySelector(".model:target") : null;
  document.title = page ? `${page.dataset.title} · ${title}` : title;
  for (const video of document.querySelectorAll("video")) video.pause();
  tip.hidden = true;
  if (page) {
    for (const link of page.querySelectorAll(".back")) link.href = home;
    scrollTo(0, 0);
    return;
  }
  if (form) {
    const words = new URLSearchParams(location.hash.slice(1));
    for (const key of KEYS) {
      const select = form.elements[key], value = words.get(key) ?? "";
      if (select) select.value = [...select.options].some((option) => option.value === value) ? value : "";
    }
    applyFilters();
  }
  if (height) scrollTo(0, height);
  height = 0;
}
for (const link of document.querySelectorAll('.home a[href^="#model="]')) {
  link.addEventListener("click", () => {
    height = scrollY;
    home = location.hash || "#table";
  });
}
if (form) {
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => {
    history.replaceState(null, "", address());
    applyFilters();
  });
  form.addEventListener("reset", () => setTimeout(() => {
    history.replaceState(null, "", address());
    applyFilters();
    form.querySelector("select").focus();
  }));
}
addEventListener("hashchange", follow);
follow();
