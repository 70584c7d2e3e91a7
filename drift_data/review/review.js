// Makes the keys work: a key acts on the element that names it in aria-keyshortcuts. All state is in the page.
"use strict";

// Milliseconds during which a new page takes no decision: a key that was meant for the previous page must not decide a
// turn that nobody has read.
const GUARD_MS = 200;
const shown = performance.now();
const help = document.getElementById("help");
const filters = document.getElementById("filters");
const filtersButton = document.getElementById("filters-button");
const targets = new Map();
for (const element of document.querySelectorAll("[aria-keyshortcuts]")) {
  for (const key of element.getAttribute("aria-keyshortcuts").split(" ")) targets.set(key, element);
}

function showFilters(open) {
  filters.hidden = !open;
  filtersButton.setAttribute("aria-expanded", String(open));
  (open ? filters.querySelector("select") : filtersButton).focus();
}

function unfold() {
  const folds = [...document.querySelectorAll("details.context")];
  const open = folds.some((fold) => !fold.open);
  for (const fold of folds) fold.open = open;
}

function nameOf(event) {
  if (event.key === "/" || event.key === "?") return event.key; // on some keyboards these are Shift and a digit
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
  if (digit) return (event.shiftKey ? "Shift+" : "") + digit[1];
  const letter = /^Key([A-Z])$/.exec(event.code);
  if (letter && event.key > "\x7f") return letter[1].toLowerCase(); // the layout has no Latin letters
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}

function act(element) {
  const items = element.closest("details.items");
  if (items && element.tagName !== "SUMMARY") items.open = true;
  if (element.tagName === "SELECT") {
    element.selectedIndex = (element.selectedIndex + 1) % element.length;
  } else {
    element.click();
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || help.open) return;
  const focus = document.activeElement;
  if (event.key === "Escape" && !filters.hidden) return showFilters(false);
  if (event.key === "Enter" && filters.contains(focus)) {
    event.preventDefault();
    return filters.requestSubmit();
  }
  if (focus.tagName === "SELECT" || filters.contains(focus)) return; // these elements have keys of their own
  if (event.key === "Enter" && focus.matches("a, button, summary, input")) return;
  const key = nameOf(event);
  if (key === "c") return unfold();
  const element = targets.get(key);
  if (!element) return;
  event.preventDefault();
  if (event.repeat || (element.type === "submit" && performance.now() - shown < GUARD_MS)) return;
  act(element);
});

let leaving = false;
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  if (leaving) event.preventDefault(); // a page sends one decision only
  leaving = true;
});
window.addEventListener("pageshow", () => (leaving = false));

filtersButton.addEventListener("click", () => showFilters(filters.hidden));
document.getElementById("help-button").addEventListener("click", () => help.showModal());

// Show the judged message; after a decision, a screen reader goes on with that message.
const message = document.getElementById("message");
if (message) message.scrollIntoView({ block: "nearest" });
if (message && document.getElementById("notice")) message.focus({ preventScroll: true });
