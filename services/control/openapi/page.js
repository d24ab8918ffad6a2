// Shows openapi.json. Nothing from the document is ever made markup: all of it goes in as text.

const METHODS = ["get", "post", "put", "patch", "delete"];
const ABOUT = ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems",
  "maxProperties", "pattern", "format"];

const place = (id) => document.getElementById(id);

/** An element with attributes and children; a child is a node or a text. */
function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

// Text: the little of Markdown that the descriptions use.

/** `code`, **bold**, *emphasis*, [text](https://...). */
function inline(text) {
  const parts = text.split(/(`[^`]+`|\*\*[^*]+\*\*|\*[^*\s][^*]*\*|\[[^\]]+\]\(https?:[^)\s]+\))/);
  return parts.filter(Boolean).map((part) => {
    const link = /^\[([^\]]+)\]\((https?:[^)\s]+)\)$/.exec(part);
    if (link) return el("a", { href: link[2], rel: "noreferrer" }, link[1]);
    if (/^`.+`$/s.test(part)) return el("code", {}, part.slice(1, -1));
    if (/^\*\*.+\*\*$/s.test(part)) return el("strong", {}, part.slice(2, -2));
    if (/^\*.+\*$/s.test(part) && part.length > 2) return el("em", {}, part.slice(1, -1));
    return part;
  });
}

/** Paragraphs and lists. */
function prose(text) {
  return (text || "").trim().split(/\n\s*\n/).filter(Boolean).map((block) => {
    if (!block.startsWith("- ")) return el("p", {}, inline(block));
    return el("ul", {}, block.split(/\n(?=- )/).map((item) => el("li", {}, inline(item.slice(2)))));
  });
}

// Schemas.

const nameOf = (reference) => reference.split("/").pop();

/** What a reference stands for. */
function resolved(part) {
  let found = part;
  while (found?.$ref) found = found.$ref.slice(2).split("/").reduce((at, key) => at[key.replaceAll("~1", "/")], api);
  return found;
}

/** The choices of a schema but null. */
const choices = (schema) => (schema.anyOf || schema.oneOf || []).filter((each) => each.type !== "null");

/** A schema in a few words, with links to those that have a name. */
function kind(schema) {
  if (schema.$ref) return [el("a", { href: `#schema-${nameOf(schema.$ref)}` }, nameOf(schema.$ref))];
  if ("const" in schema) return [el("code", {}, JSON.stringify(schema.const))];
  if (schema.enum) return schema.enum.flatMap((each, index) => [index ? " | " : "", el("code", {}, JSON.stringify(each))]);
  const some = schema.anyOf || schema.oneOf;
  if (some) return some.flatMap((each, index) => [index ? " | " : "", ...kind(each)]);
  if (schema.type === "array") return ["list of ", ...kind(schema.items || {})];
  if (schema.type === "object" && schema.additionalProperties && !schema.properties) {
    return ["map of ", ...kind(schema.additionalProperties)];
  }
  return [[schema.type || "any JSON"].flat().join(" | ")];
}

/** What else is required of a value. */
function limits(schema) {
  const found = ABOUT.filter((word) => word in schema).map((word) => `${word} ${schema[word]}`);
  if (schema.default !== undefined && schema.default !== null) found.push(`default ${JSON.stringify(schema.default)}`);
  return found.length ? el("span", { class: "soft" }, ` ${found.join(", ")}`) : null;
}

/** The members of an object, or of what a list or a choice is made of; null where there are none to show. */
function members(schema) {
  if (schema.$ref) return named(schema.$ref);
  if (schema.properties) {
    const required = schema.required || [];
    return el("ul", { class: "members" }, Object.entries(schema.properties).map(([name, member]) => el("li", {},
      el("code", {}, name), " ", el("span", { class: "soft" }, kind(member)), limits(member),
      required.includes(name) ? el("span", { class: "need" }, " required") : null,
      prose(member.description), members(member),
    )));
  }
  if (schema.items) return members(schema.items);
  if (schema.additionalProperties?.properties) return members(schema.additionalProperties);
  const found = choices(schema).map(members).filter(Boolean);
  return found.length ? el("div", {}, found) : null;
}

/** The members of a schema that has a name; made when they are asked for, as it may hold itself. */
function named(reference) {
  const schema = resolved({ $ref: reference });
  if (!schema.properties && !choices(schema).length) return null;
  const view = el("details", {}, el("summary", { class: "soft" }, `members of ${nameOf(reference)}`));
  view.addEventListener("toggle", () => view.append(...prose(schema.description), members(schema) || ""), { once: true });
  return view;
}

function schemaView(schema) {
  return el("div", {}, el("p", {}, kind(schema), limits(schema)), members(schema));
}

// Examples.

/** The examples of a body: [name, value] pairs. */
function examples(content) {
  if ("example" in content) return [["Example", content.example]];
  return Object.values(content.examples || {}).map((each) => [each.summary || "Example", each.value]);
}

/** A text in a box that can be copied. */
function box(title, text) {
  const said = el("span", { class: "soft copied", role: "status" });
  const button = el("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    said.textContent = "copied";
  });
  const copy = navigator.clipboard ? [button, said] : [];
  return el("div", { class: "example" }, el("h4", {}, title, " ", copy), el("pre", { tabindex: "0" }, el("code", {}, text)));
}

/** JSON on one line, or on many where it is long. */
function written(value) {
  const line = JSON.stringify(value);
  return line.length > 90 ? JSON.stringify(value, null, 2) : line;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curl(method, path, parameters, mediaType, body) {
  const filled = path.replaceAll(/\{(\w+)\}/g, (_, name) => {
    const known = parameters.find((each) => each.in === "path" && each.name === name)?.example;
    return known === undefined ? `{${name}}` : encodeURIComponent(known);
  });
  const words = ["curl"];
  if (method !== "get" && !(method === "post" && body !== undefined)) words.push("-X", method.toUpperCase());
  words.push(quoted(new URL(filled, location.origin).href.replaceAll("%7B", "{").replaceAll("%7D", "}")));
  if (body !== undefined) words.push("-H", quoted(`Content-Type: ${mediaType}`), "\\\n  -d", quoted(written(body)));
  return words.join(" ");
}

function bodyView(body) {
  return Object.entries(body.content || {}).flatMap(([mediaType, content]) => [
    el("p", { class: "soft" }, mediaType), content.schema ? schemaView(content.schema) : null,
  ]);
}

// Operations.

function operationView(path, method, item, operation) {
  const parameters = [...(item.parameters || []), ...(operation.parameters || [])].map(resolved);
  const inside = el("div", { class: "inside" }, prose(operation.description));
  if (parameters.length) {
    inside.append(el("h4", {}, "Parameters"), el("ul", { class: "members" }, parameters.map((each) => el("li", {},
      el("code", {}, each.name), " ", el("span", { class: "soft" }, `in ${each.in}, `, kind(each.schema)), limits(each.schema),
      each.required ? el("span", { class: "need" }, " required") : null, prose(each.description),
    ))));
  }
  const body = resolved(operation.requestBody);
  if (body) inside.append(el("h4", {}, "Body"), ...bodyView(body).filter(Boolean));
  const [[mediaType, content] = [undefined, {}]] = Object.entries(body?.content || {});
  const given = examples(content);
  for (const [title, value] of given) inside.append(box(title, curl(method, path, parameters, mediaType, value)));
  if (!given.length && !body) inside.append(box("Example", curl(method, path, parameters)));
  const answers = Object.entries(operation.responses);
  inside.append(el("h4", {}, "Answers"), ...answers.map(([status, each]) => answerView(status, each)));
  return el("details", { class: "operation", id: operation.operationId },
    el("summary", {}, el("span", { class: `method ${method.toUpperCase()}` }, method.toUpperCase()),
      el("code", { class: "path" }, path), el("span", { class: "soft" }, operation.summary)),
    inside);
}

function answerView(status, reference) {
  const answer = resolved(reference);
  const headers = Object.entries(answer.headers || {}).map(([name, header]) =>
    el("li", {}, el("code", {}, name), " ", inline(resolved(header).description || "")));
  const given = Object.values(answer.content || {}).flatMap(examples);
  return el("details", {},
    el("summary", {}, el("span", { class: "status" }, status), " ", inline((answer.description || "").trim())),
    el("div", { class: "inside" }, headers.length ? el("ul", { class: "members" }, headers) : null, bodyView(answer),
      given.map(([title, value]) => box(title, written(value)))));
}

// The page.

function show() {
  const { title, summary, version, description } = api.info;
  const source = el("a", { href: "openapi.json" }, "openapi.json");
  place("front").append(el("h1", {}, title), el("p", { class: "soft" }, `${summary}, version ${version}. `, source), ...prose(description));
  for (const tag of api.tags) {
    const section = el("section", {}, el("h2", {}, tag.name), prose(tag.description));
    const list = el("ul");
    for (const [path, item] of Object.entries(api.paths)) {
      for (const method of METHODS.filter((each) => item[each]?.tags.includes(tag.name))) {
        const view = operationView(path, method, item, item[method]);
        section.append(view);
        list.append(el("li", {}, el("a", { href: `#${view.id}` },
          el("span", { class: `method ${method.toUpperCase()}` }, method.toUpperCase()), el("span", {}, item[method].summary))));
      }
    }
    place("operations").append(section);
    place("contents").append(el("h2", {}, tag.name), list);
  }
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    place("schemas").append(el("details", { class: "schema", id: `schema-${name}` }, el("summary", {}, el("code", {}, name)),
      el("div", { class: "inside" }, prose(schema.description), schemaView(schema),
        (schema.examples || []).map((each) => box("Example", written(each))))));
  }
  place("contents").append(el("h2", {}, el("a", { href: "#schemas" }, "Schemas")));
}

/** Open what the address points at. */
function follow() {
  const found = place(decodeURIComponent(location.hash.slice(1)));
  if (!found) return;
  if (found.tagName === "DETAILS") found.open = true;
  found.scrollIntoView();
  (found.querySelector("summary") || found).focus({ preventScroll: true });
}

/** Show only the operations that have the word in their path, name or text. */
function filter(word) {
  const wanted = word.trim().toLowerCase();
  for (const link of document.querySelectorAll("#contents li a")) {
    const view = place(link.hash.slice(1));
    const fits = !wanted || view.textContent.toLowerCase().includes(wanted);
    link.parentElement.hidden = view.hidden = !fits;
  }
}

let api;
try {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`openapi.json: ${answer.status}`);
  api = await answer.json();
  show();
  follow();
  addEventListener("hashchange", follow);
  place("filter").addEventListener("input", (event) => filter(event.target.value));
} catch (error) {
  place("trouble").textContent = `The description cannot be shown: ${error.message}`;
}
