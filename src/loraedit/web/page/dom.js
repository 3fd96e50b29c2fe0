// Small helpers for the page.

export const $ = (id) => document.getElementById(id);

// Makes an element with properties and children. Children are elements or text; text is never parsed as HTML.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Writes into a status line if its text changes, so that screen readers announce it once.
export function say(element, text, isError = false) {
  if (element.textContent !== text) element.textContent = text;
  element.classList.toggle("error", isError);
}

export function seconds(value) {
  if (value < 90) return `${Math.max(1, Math.round(value))} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}
