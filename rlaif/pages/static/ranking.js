// A ranking under construction: groups of places, the best group first, and the places that are in none yet.
// Keys put the next place last, or beside the last one; chips can be dragged into a group or between two.

export class Ranking {
  constructor(size, box, changed) {
    this.size = size;
    this.box = box;
    this.changed = changed;
    this.groups = [];
    this.tie = false; // whether the next key joins the last group
  }

  get left() {
    const placed = new Set(this.groups.flat());
    return [...Array(this.size).keys()].filter((place) => !placed.has(place));
  }

  get ranks() {
    return this.left.length ? null : [...Array(this.size).keys()].map((p) => 1 + this.groups.findIndex((g) => g.includes(p)));
  }

  press(place) {
    if (!this.left.includes(place)) return;
    if (this.tie && this.groups.length) this.groups.at(-1).push(place);
    else this.groups.push([place]);
    this.tie = false;
    this.draw();
  }

  joinNext() {
    this.tie = this.groups.length > 0 && this.left.length > 0;
    this.draw();
  }

  takeBack() {
    if (this.tie) this.tie = false;
    else {
      this.groups.at(-1)?.pop();
      this.groups = this.groups.filter((group) => group.length);
    }
    this.draw();
  }

  // Moves a place into the group `at`, or into a new one before it.
  move(place, at, apart) {
    const groups = this.groups.map((group) => group.filter((other) => other !== place));
    if (at === null) this.groups = groups;
    else if (apart) this.groups = groups.toSpliced(at, 0, [place]);
    else this.groups = groups.map((group, index) => (index === at ? [...group, place] : group));
    this.groups = this.groups.filter((group) => group.length);
    this.tie = false;
    this.draw();
  }

  draw() {
    const parts = [this.zone(null, "not ranked", this.left, "pool")];
    this.groups.forEach((group, index) => {
      parts.push(this.gap(index));
      const name = index ? `rank ${index + 1}` : "best";
      parts.push(this.zone(index, this.tie && index === this.groups.length - 1 ? "tie with …" : name, group, ""));
    });
    parts.push(this.gap(this.groups.length));
    this.box.replaceChildren(...parts);
    this.changed();
  }

  zone(at, label, places, kind) {
    const made = element("div", `rank ${kind}`);
    const chips = element("div", "chips");
    chips.append(...places.map((place) => this.chip(place)));
    made.append(element("span", "label", label), chips);
    made.dataset.rank = at === null ? "pool" : at + 1;
    return this.takes(made, at, false);
  }

  gap(at) {
    const made = element("div", "gap");
    made.dataset.gap = at;
    return this.takes(made, at, true);
  }

  chip(place) {
    const made = element("span", "chip", String(place + 1));
    made.draggable = true;
    made.dataset.place = place;
    made.addEventListener("dragstart", (event) => event.dataTransfer.setData("text/plain", `place ${place}`));
    return made;
  }

  takes(zone, at, apart) {
    zone.addEventListener("dragover", (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
    zone.addEventListener("dragleave", () => zone.classList.remove("over"));
    zone.addEventListener("drop", (event) => {
      event.preventDefault();
      const found = /^place (\d)$/.exec(event.dataTransfer.getData("text/plain"));
      if (found && Number(found[1]) < this.size) this.move(Number(found[1]), at, apart);
      else zone.classList.remove("over");
    });
    return zone;
  }
}

export function element(kind, classes = "", text = "") {
  const made = document.createElement(kind);
  made.className = classes;
  made.textContent = text;
  return made;
}
