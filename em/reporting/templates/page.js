"use strict";
// What every script of the page uses. Text reaches the page only as text nodes.
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);

function el(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes))
    if (value !== undefined && value !== null) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function tint(node, look) {
  node.style.setProperty("--l", look.light);
  node.style.setProperty("--d", look.dark);
  node.classList.add("s");
  return node;
}

at("theme").addEventListener("click", () => {
  const next = {"": "light", light: "dark", dark: ""}[document.documentElement.style.colorScheme];
  document.documentElement.style.colorScheme = next;
  at("theme").textContent = "theme: " + (next || "system");
});
