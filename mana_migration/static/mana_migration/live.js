// What a polled page loses when it is replaced: which tables were open, what is selected or focused. Whether the site
// answers at all. And copying a text.
"use strict";

let open = [];

function isSelecting(target) {
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed && target.contains(selection.anchorNode));
}

document.addEventListener("htmx:beforeSwap", (event) => {
  const target = event.detail.target;
  const isFocused = target.id === "counts" && target.contains(document.activeElement);
  const isUsed = isFocused || (target.id !== "preview" && isSelecting(target));
  if (isUsed) event.detail.shouldSwap = false; // the next poll brings the figures
  if (target.id === "live") open = [...target.querySelectorAll("details[open]")].map((details) => details.id);
});

document.addEventListener("htmx:afterSwap", () => {
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
});

document.addEventListener("htmx:afterRequest", (event) => {
  const offline = document.getElementById("offline");
  if (offline) offline.hidden = Boolean(event.detail.successful);
});

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const text = document.getElementById(button.dataset.copy);
    text.select();
    if (navigator.clipboard) navigator.clipboard.writeText(text.value);
    else document.execCommand("copy"); // where the page is not served over TLS
  });
}
