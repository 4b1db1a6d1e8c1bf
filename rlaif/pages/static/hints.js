// Completion in a constitution file, from its JSON schema: the keys that may stand where the cursor is.

const OPENS = { principles: "Principle", examples: "Example" };
const TAGS = new Set(["tags", "applies_to"]);

const dashOf = (line) => line.match(/^\s*/)[0].length;
const columnOf = (line) => line.match(/^\s*(?:- +)*/)[0].length; // of the key, behind the dashes of a list
const keyOf = (line) => (line.match(/^\s*(?:- +)*([\w-]+)\s*:/) || [])[1];

// The schema's model whose keys may stand in line `at` at this column, and the keys that its mapping has.
function place(lines, at, column) {
  const taken = new Set();
  let whole = dashOf(lines[at]) === column; // no dash before it: the mapping goes on above
  let depth = whole ? column : dashOf(lines[at]) + 1; // what holds the mapping stands left of this column
  for (let n = at - 1; n >= 0; n -= 1) {
    const key = keyOf(lines[n]);
    if (!key || lines[n].trim().startsWith("#")) continue;
    if (whole && columnOf(lines[n]) === column) {
      taken.add(key);
      whole = dashOf(lines[n]) === column;
      if (!whole) depth = dashOf(lines[n]) + 1;
    } else if (columnOf(lines[n]) < depth) {
      if (OPENS[key]) return { model: OPENS[key], taken: below(lines, at, column, taken) };
      [whole, depth] = [false, dashOf(lines[n]) < columnOf(lines[n]) ? dashOf(lines[n]) + 1 : columnOf(lines[n])];
    }
  }
  return { model: "Constitution", taken: below(lines, at, column, taken) };
}

function below(lines, at, column, taken) {
  for (const line of lines.slice(at + 1)) {
    if (!line.trim() || dashOf(line) > column) continue;
    if (dashOf(line) < column || columnOf(line) > column) break;
    if (keyOf(line)) taken.add(keyOf(line));
  }
  return taken;
}

function fieldsOf(schema, model) {
  return (model === "Constitution" ? schema : schema.$defs[model]).properties;
}

// The completions of a text at {line, ch}: [{text, description}], and the columns that one replaces.
export function completions(text, cursor, schema, tags) {
  const lines = text.split("\n");
  const before = lines[cursor.line].slice(0, cursor.ch);
  const listed = before.match(/^\s*(?:- +)*([\w-]+)\s*:\s*\[(?:[^\]]*,\s*)?([\w.-]*)$/);
  if (listed && TAGS.has(listed[1])) {
    const found = tags.filter((tag) => tag.startsWith(listed[2]));
    return { from: cursor.ch - listed[2].length, list: found.map((tag) => ({ text: tag, description: "" })) };
  }
  const typed = before.match(/^(\s*(?:- +)*)([\w-]*)$/);
  if (!typed) return { from: cursor.ch, list: [] };
  const { model, taken } = place(lines, cursor.line, typed[1].length);
  const found = Object.entries(fieldsOf(schema, model)).filter(
    ([name]) => name.startsWith(typed[2]) && !taken.has(name),
  );
  const list = found.map(([name, field]) => ({ text: `${name}: `, description: field.description || "" }));
  return { from: typed[1].length, list };
}
