// The tiles: one per stream, with its picture, its numbers, and where the time of its frames goes.

import { drawPicture, drawStrip } from "./drawing.js";

const STRIP_PLACES = 60;
const STALE_AFTER_MS = 3000;
const VERDICT_WORDS = {
  ok: "ok", superseded: "superseded", infeasible: "infeasible", expired: "expired", bad_frame: "bad frame",
  rejected: "rejected", failed: "failed", draining: "draining",
};
export const STAGE_WORDS = {
  age: "before it came", queue: "queue", decode: "decode", wait: "wait for the engine", infer: "engine",
  finish: "read outputs", cascade: "cascade", reply: "reply",
};
const VERDICTS = Object.keys(VERDICT_WORDS);

const whole = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** A rate, as many digits as mean something. */
export function rate(value) {
  return value === null || value === undefined ? "–" : value >= 100 ? value.toFixed(0) : value.toFixed(1);
}

/** Milliseconds, as many digits as mean something. */
export function ms(value) {
  if (value === null || value === undefined) return "–";
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** A duration in words. */
export function ago(seconds) {
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}

/** Set a text only where it changes, so that nothing is laid out in vain. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function colourOf(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

class Tile {
  constructor(stream, wall) {
    this.id = stream;
    this.wall = wall;
    this.element = document.getElementById("tile").content.firstElementChild.cloneNode(true);
    this.part = Object.fromEntries(
      [...this.element.querySelectorAll("[class]")].map((each) => [each.classList[each.classList.length - 1], each]),
    );
    this.canvas = this.element.querySelector(".picture canvas");
    this.element.dataset.stream = stream;
    this.visible = false;
    this.bitmap = null;
    this.caption = null;
    this.status = null;
    this.shownAt = 0;
    const name = this.part.name;
    name.textContent = stream;
    name.title = stream;
    name.id = `stream-${wall.numbers++}`;
    this.element.setAttribute("aria-labelledby", name.id);
    this.part.expand.addEventListener("click", () => this.enlarge(!this.large));
  }

  get large() {
    return this.element.classList.contains("large");
  }

  enlarge(large) {
    this.element.classList.toggle("large", large);
    this.part.expand.setAttribute("aria-pressed", String(large));
    say(this.part.expand.querySelector(".hidden-text"), large ? "Show smaller" : "Show larger");
    this.wall.changed();
    if (large) this.element.scrollIntoView({ block: "nearest" });
  }

  /** The longer side that a picture for this tile should have, in pixels. */
  get side() {
    const fine = this.canvas.clientWidth * (window.devicePixelRatio || 1);
    return fine > 760 ? 1280 : 640;
  }

  show(bitmap, caption) {
    this.bitmap?.close();
    [this.bitmap, this.caption, this.shownAt] = [bitmap, caption, performance.now()];
    this.element.classList.add("seen");
    this.part.picture.style.setProperty("--aspect", `${bitmap.width} / ${bitmap.height}`);
    this.draw();
    this.badge();
  }

  draw() {
    if (this.bitmap) drawPicture(this.canvas, this.bitmap, this.caption);
  }

  update(status, stages) {
    this.status = status;
    const part = this.part, gone = status.gone_s !== null;
    this.element.classList.toggle("gone", gone);
    this.element.classList.toggle("quiet", !gone && status.quiet_s !== null);
    say(part.pipeline, status.pipeline);
    part.grant.hidden = status.grant !== "guaranteed";
    say(part["ok-fps"], gone ? "–" : rate(status.ok_fps));
    say(part["in-fps"], gone ? "–" : rate(status.received_fps));
    say(part["total-ms"], ms(status.total_ms));
    say(part["budget-ms"], String(status.budget_ms));
    this.updateBar(status, stages);
    this.updateVerdicts(status.counts);
    drawStrip(part.strip, status.strip, STRIP_PLACES, VERDICTS, this.wall.colours);
    this.badge();
  }

  updateBar(status, stages) {
    const bar = this.part.bar;
    while (bar.children.length < stages.length) {
      const segment = document.createElement("i");
      segment.dataset.stage = stages[bar.children.length];
      segment.style.setProperty("--colour", `var(--${segment.dataset.stage})`);
      bar.append(segment);
    }
    const times = status.stage_ms || stages.map(() => 0);
    const together = times.reduce((sum, each) => sum + each, 0);
    const whole = Math.max(status.budget_ms, together);
    times.forEach((time, index) => {
      const segment = bar.children[index];
      segment.style.width = `${(100 * time) / whole}%`;
      segment.title = `${STAGE_WORDS[stages[index]] || stages[index]}: ${ms(time)} ms`;
    });
    bar.classList.toggle("over", together > status.budget_ms);
    const named = times.map((time, index) => [stages[index], time]).filter(([, time]) => time >= 0.1);
    const words = named.map(([stage, time]) => `${STAGE_WORDS[stage] || stage} ${ms(time)} ms`).join(", ");
    const label = status.stage_ms
      ? `${ms(status.total_ms)} of ${status.budget_ms} ms, slowest of the last frames ${ms(status.slowest_ms)} ms. ${words}`
      : "no frame answered OK lately";
    if (bar.getAttribute("aria-label") !== label) {
      bar.setAttribute("aria-label", label);
      bar.title = label;
    }
  }

  updateVerdicts(counts) {
    const list = this.part.verdicts;
    for (const verdict of VERDICTS) {
      let item = list.querySelector(`[data-verdict="${verdict}"]`);
      if (!item && (counts[verdict] || verdict === "ok")) {
        item = document.createElement("li");
        item.dataset.verdict = verdict;
        item.style.setProperty("--colour", `var(--${verdict})`);
        item.style.order = VERDICTS.indexOf(verdict);
        item.append(VERDICT_WORDS[verdict], document.createElement("b"));
        list.append(item);
      }
      if (!item) continue;
      say(item.lastElementChild, counts[verdict] < 100000 ? String(counts[verdict]) : whole.format(counts[verdict]));
      item.title = `${counts[verdict]} ${VERDICT_WORDS[verdict]}`;
    }
  }

  badge() {
    const { badge, waiting } = this.part, status = this.status;
    if (!status) return;
    const old = performance.now() - this.shownAt, verdict = this.caption?.verdict;
    let text = "";
    if (status.gone_s !== null) text = `gone ${ago(status.gone_s)} ago`;
    else if (status.quiet_s !== null) text = `no frames for ${ago(status.quiet_s)}`;
    else if (this.bitmap && old > STALE_AFTER_MS) text = `picture is ${ago(old / 1000)} old`;
    else if (this.bitmap && verdict !== "ok") text = `not inferred: ${VERDICT_WORDS[verdict]}`;
    say(badge, text);
    badge.hidden = !text;
    say(waiting, status.gone_s === null ? "waiting for a picture" : "no picture");
  }

  remove() {
    this.bitmap?.close();
    this.bitmap = null;
    this.element.remove();
  }
}

/** All tiles, in the order in which their streams came. */
export class Wall {
  /** `changed` is called when other streams, or larger pictures, are to be seen. */
  constructor(element, changed) {
    this.element = element;
    this.changed = changed;
    this.numbers = 1;
    this.tiles = new Map();
    this.seeing = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const tile = this.tiles.get(entry.target.dataset.stream);
        if (tile) tile.visible = entry.isIntersecting;
      }
      this.changed();
    }, { rootMargin: "80px" });
    this.resizing = new ResizeObserver((entries) => {
      for (const entry of entries) this.tiles.get(entry.target.closest(".tile").dataset.stream)?.draw();
    });
    this.readColours();
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => this.readColours());
  }

  readColours() {
    this.colours = Object.fromEntries([...VERDICTS, "line"].map((name) => [name, colourOf(name)]));
  }

  update(streams, stages) {
    const present = new Set(streams.map((each) => each.id));
    for (const [id, tile] of this.tiles) {
      if (present.has(id)) continue;
      this.seeing.unobserve(tile.element);
      this.resizing.unobserve(tile.canvas);
      tile.remove();
      this.tiles.delete(id);
    }
    for (const stream of streams) {
      let tile = this.tiles.get(stream.id);
      if (!tile) {
        tile = new Tile(stream.id, this);
        this.tiles.set(stream.id, tile);
        this.element.append(tile.element);
        this.seeing.observe(tile.element);
        this.resizing.observe(tile.canvas);
      }
      tile.update(stream, stages);
    }
    this.element.dataset.count = String(this.tiles.size);
  }

  /** The streams whose tiles are on the screen, with the size that their pictures should have. */
  wishes() {
    const visible = [...this.tiles.values()].filter((tile) => tile.visible && tile.status?.gone_s === null);
    return Object.fromEntries(visible.map((tile) => [tile.id, tile.side]));
  }

  show(caption, bitmap) {
    const tile = this.tiles.get(caption.stream);
    if (tile) tile.show(bitmap, caption);
    else bitmap.close();
  }

  shrinkAll() {
    for (const tile of this.tiles.values()) if (tile.large) tile.enlarge(false);
  }
}
