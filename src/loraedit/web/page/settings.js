// The settings of an edit, built from the schema that the server sends.

import { $, make, say } from "./dom.js";

const OUTSIDE_LIST = new Set(["prompt", "source_prompt", "captioner", "model", "recipe", "preview_every"]);

const FIRST = { model: (models) => models[0], recipe: (models, recipes) => Object.keys(recipes)[0] };

export function drawSettings(fields, models, recipes, values) {
  const place = $("all-settings");
  if (!place.children.length) {
    const listed = Object.entries(fields).filter(([name]) => !OUTSIDE_LIST.has(name));
    for (const panel of new Set(listed.map(([, field]) => field.panel))) {
      const rows = listed.filter(([, field]) => field.panel === panel).map(([name, field]) => row(name, field));
      place.append(make("h3", {}, panel), make("div", { className: "fields many" }, ...rows));
    }
    $("set-captioner").append(...fields.captioner.enum.map((name) => make("option", { value: name }, name)));
    $("set-model").replaceChildren(...models.map((model) => make("option", { value: model }, model)));
    $("set-recipe").replaceChildren(...Object.keys(recipes).map((name) => make("option", { value: name }, name)));
    $("set-recipe").addEventListener("input", () => say($("recipe-use"), recipes[$("set-recipe").value]));
  }
  for (const input of document.querySelectorAll("[data-setting]")) {
    if (input === document.activeElement) continue;
    const value = values[input.dataset.setting];
    const absent = value === undefined || value === null;
    if (input.type === "checkbox") input.checked = value === "";
    else input.value = absent ? FIRST[input.dataset.setting]?.(models, recipes) ?? "" : String(value);
  }
  say($("recipe-use"), recipes[$("set-recipe").value]);
}

// Reads the inputs; an empty input takes the default of the model.
export function readSettings(fields, before) {
  const settings = { ...before };
  for (const input of document.querySelectorAll("[data-setting]")) {
    const name = input.dataset.setting;
    const kind = kindOf(fields[name]);
    if (input.type === "checkbox") {
      if (input.checked) settings[name] = "";
    } else if (input.value === "") delete settings[name];
    else if (kind.type === "boolean") settings[name] = input.value === "true";
    else if (kind.type === "integer" || kind.type === "number") settings[name] = Number(input.value);
    else settings[name] = input.value;
  }
  return settings;
}

function kindOf(field) {
  return (field.anyOf || [field]).find((kind) => kind.type !== "null");
}

function row(name, field) {
  const kind = kindOf(field);
  const options = kind.enum || (kind.type === "boolean" ? ["true", "false"] : null);
  const words = { true: "yes", false: "no" };
  const fallback = field.of_model ? "the model's" : "default";
  const input = options
    ? make("select", {}, make("option", { value: "" }, fallback), ...options.map((value) => make("option", { value }, words[value] || value)))
    : make("input", { type: kind.type === "string" ? "text" : "number", placeholder: fallback });
  if (kind.type === "number") input.step = "any";
  input.dataset.setting = name;
  const label = make("label", {}, name.replaceAll("_", " "), input, make("small", {}, field.description || ""));
  if (!field.may_be_none) return label;
  const none = make("input", { type: "checkbox" });
  none.dataset.setting = name;
  none.addEventListener("input", () => { input.value = ""; });
  input.addEventListener("input", () => { none.checked = false; });
  return make("div", {}, label, make("label", { className: "tool" }, none, ` no ${name.replaceAll("_", " ")}`));
}
