// The engines: how busy each is, and what it has left.

import { ms, rate, say } from "./tiles.js";

const FULL_LOAD = 0.95;

/** What is left of an engine, in words. */
function room(engine) {
  if (engine.fps === null) return "…";
  if (!engine.streams) return `room for about ${rate(engine.free_fps)} frames/s`;
  if (engine.device_load >= FULL_LOAD) return "no room left";
  if (engine.more_streams === null) return `room for about ${rate(engine.free_fps)} more frames/s`;
  const such = `of ${rate(engine.mean_stream_fps)} fps`;
  if (engine.more_streams === 0) return `no room for another stream ${such}`;
  return `room for about ${engine.more_streams} more ${engine.more_streams === 1 ? "stream" : "streams"} ${such}`;
}

function updateEngine(card, engine) {
  const part = (name) => card.querySelector(`.${name}`);
  const percent = (share) => `${Math.round(100 * share)} %`;
  say(part("engine-pipeline"), engine.pipeline);
  say(part("engine-name"), [engine.name, engine.backend, engine.precision, engine.device].filter(Boolean).join(" · "));
  const own = Math.min(1, engine.load), others = Math.min(1 - own, Math.max(0, engine.device_load - engine.load));
  const left = `${percent(Math.max(0, 1 - engine.device_load))} free on ${engine.device}`;
  part("load").style.width = `${100 * own}%`;
  part("others").style.width = `${100 * others}%`;
  say(part("busy-words"), `runs ${percent(engine.busy)} of the time`);
  say(part("left-words"), engine.fps === null ? "" : left);
  const label = `at full batches ${percent(engine.load)} for this engine, ${percent(others)} for others, ${left}`;
  part("gauge").setAttribute("aria-label", label);
  part("gauge").title = label;
  card.classList.toggle("full", engine.device_load >= FULL_LOAD);
  say(part("room"), room(engine));
  say(part("one-ms"), `${ms(engine.one_ms)} ms`);
  say(part("cap"), String(engine.batch_cap));
  say(part("cap-ms"), `${ms(engine.batch_cap_ms)} ms`);
  say(part("engine-fps"), engine.fps === null ? "–" : `${rate(engine.fps)} /s`);
  say(part("most-fps"), `${rate(engine.most_fps)} /s`);
  say(part("engine-waiting"), String(engine.waiting));
  say(part("margin-ms"), `${ms(engine.margin_ms)} ms`);
}

function newUnserved(pipeline) {
  const card = document.createElement("article");
  card.className = "engine unserved";
  const title = document.createElement("h3"), details = document.createElement("details");
  const summary = document.createElement("summary"), why = document.createElement("p");
  title.textContent = pipeline.name;
  summary.textContent = "not served";
  why.className = "why";
  why.textContent = pipeline.reason;
  details.append(summary, why);
  card.append(title, details);
  return card;
}

/** Show these engines, and the pipelines that have none. */
export function updateEngines(place, engines, unserved) {
  const wanted = new Map();
  for (const engine of engines) wanted.set(`served ${engine.pipeline} ${engine.device}`, engine);
  for (const pipeline of unserved) wanted.set(`unserved ${pipeline.name} ${pipeline.reason}`, pipeline);
  for (const card of [...place.children]) if (!wanted.has(card.dataset.key)) card.remove();
  for (const [key, each] of wanted) {
    let card = [...place.children].find((child) => child.dataset.key === key);
    if (!card) {
      card = each.reason === undefined
        ? document.getElementById("engine").content.firstElementChild.cloneNode(true)
        : newUnserved(each);
      card.dataset.key = key;
      place.append(card);
    }
    if (each.reason === undefined) updateEngine(card, each);
  }
}
