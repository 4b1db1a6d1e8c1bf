// What a page asks its server: `ask("/api/x", {n: 1})` reads, `tell("/api/x", {n: 1})` changes.
// Both return the answer's JSON; a refusal throws a Refusal with the server's words and its HTTP status.

export class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function answered(sent) {
  let response;
  try {
    response = await sent;
  } catch {
    throw new Refusal("The server does not answer: is the command still running?", 0);
  }
  const said = await response.json().catch(() => ({ error: "The server's answer is not JSON." }));
  if (!response.ok) throw new Refusal(said.error, response.status);
  return said;
}

export function ask(path, values = {}) {
  return answered(fetch(`${path}?${new URLSearchParams(values)}`));
}

export function tell(path, values = {}) {
  const headers = { "Content-Type": "application/json" };
  return answered(fetch(path, { method: "POST", headers, body: JSON.stringify(values) }));
}
