"use strict";
// Draws the services again and again, asks once before an order, and hands links to the window around this page.

const EVERY_MS = 2000;
const find = (id) => document.getElementById(id);
let token = "";
let drawn = "";

function follow_theme() {
  if (window.parent === window) return;
  const around = window.parent.document.documentElement;
  const apply = () => { document.documentElement.dataset.theme = around.classList.contains("dark") ? "dark" : "light"; };
  new MutationObserver(apply).observe(around, { attributes: true, attributeFilter: ["class"] });
  apply();
}

async function draw() {
  try {
    const response = await fetch("services", { headers: { Accept: "text/html" } });
    if (response.status === 401) return say("your session has ended; log in again");
    if (response.status === 403) return say("you may not see this page");
    token = response.headers.get("X-Slipway-Token") || "";
    put(await response.text());
    say(response.ok ? "live" : "waiting");
  } catch {
    say("Airflow does not answer; what is shown may be old");
  }
}

function put(html) {
  if (html === drawn) return;
  const focused = document.activeElement && document.activeElement.id;
  find("services").innerHTML = html; // made by this server, which escapes whatever it did not write itself
  drawn = html;
  if (focused && find(focused)) find(focused).focus();
}

function say(text) {
  find("state").textContent = text;
  find("state").className = text === "live" ? "live" : "late";
}

function answer(text, address) {
  const place = find("answer");
  place.textContent = text;
  if (address) {
    const link = document.createElement("a");
    link.href = address;
    link.textContent = "See its run.";
    place.append(" ", link);
  }
  place.hidden = false;
}

function ask(button) {
  find("ask-title").textContent = button.dataset.title;
  find("ask-text").textContent = button.dataset.text;
  find("ask-yes").textContent = button.dataset.yes;
  find("ask-yes").onclick = () => { find("ask").close(); order(button.dataset); };
  find("ask").showModal();
}

async function order(wanted) {
  const number = (text) => (text ? Number(text) : null);
  const body = { service: wanted.service, rollout: number(wanted.rollout), version: number(wanted.version) };
  try {
    const response = await fetch("orders", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Slipway-Token": token },
      body: JSON.stringify(body),
    });
    const told = await response.json();
    if (response.ok) answer("Ordered.", told.run);
    else answer(typeof told.detail === "string" ? told.detail : "The order was not understood; nothing was done.");
  } catch {
    answer("Airflow does not answer; whether the order was taken is not known. Look at the runs of the DAG rollback.");
  }
}

// The frame that Airflow puts this page into may not leave it, but the window around may.
function leave(event, link) {
  if (window.parent === window) return;
  event.preventDefault();
  const outside = window.parent.document.createElement("a");
  outside.href = link.href;
  outside.target = link.target;
  outside.rel = "noopener";
  outside.click();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  const button = event.target.closest("button[data-service]");
  if (link) leave(event, link);
  if (button) ask(button);
});
find("ask-no").addEventListener("click", () => find("ask").close());

async function keep_drawing() {
  if (!document.hidden) await draw();
  setTimeout(keep_drawing, EVERY_MS);
}

follow_theme();
keep_drawing();
