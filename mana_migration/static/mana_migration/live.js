// What a polled page loses when it is replaced: which tables were open. And whether the site answers at all.
"use strict";

let open = [];

document.addEventListener("htmx:beforeSwap", () => {
  open = [...document.querySelectorAll("#live details[open]")].map((details) => details.id);
});

document.addEventListener("htmx:afterSwap", () => {
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
});

document.addEventListener("htmx:afterRequest", (event) => {
  document.getElementById("offline").hidden = Boolean(event.detail.successful);
});
