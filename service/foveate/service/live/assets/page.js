// The live page: keeps a connection to the server, says what is on the screen, and shows what comes.

import { updateEngines } from "./engines.js";
import { rate, say, STAGE_WORDS, Wall } from "./tiles.js";

const LOOKING_EVERY_MS = 1000;
const SILENT_AFTER_MS = 4000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 5000;
const HEADER_BYTES = 4;

const at = (id) => document.getElementById(id);
const wall = new Wall(at("tiles"), () => look());
const text = new TextDecoder();

let connection = null;
let pause = FIRST_PAUSE_MS;
let heardAt = 0;
let stages = [];

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const opened = new WebSocket(`${scheme}//${location.host}/live`);
  opened.binaryType = "arraybuffer";
  connection = opened;
  let worked = false;
  opened.onopen = () => {
    worked = true;
    heardAt = performance.now();
    pause = FIRST_PAUSE_MS;
    look();
  };
  opened.onmessage = (event) => {
    heardAt = performance.now();
    if (typeof event.data === "string") showStatus(JSON.parse(event.data));
    else showPicture(opened, event.data);
  };
  opened.onclose = async () => {
    if (connection !== opened) return;
    lose(worked ? "The connection to the server is lost." : await refusal());
    setTimeout(connect, pause);
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  };
}

/** Why the server lets nobody look; a browser does not tell. */
async function refusal() {
  try {
    const answer = await fetch("/readyz");
    if (answer.ok || answer.status === 503) {
      const live = await fetch("/live");
      if ([403, 421, 503].includes(live.status)) return await live.text();
    }
  } catch {
    // it is not there
  }
  return "The server does not answer.";
}

function lose(why) {
  document.body.classList.add("lost");
  setState("lost", "disconnected");
  banner("lost", `${why.trim()} Trying again…`);
}

/** Tell the server what is on the screen. It sends nothing else, and nothing at all once this is not said any more. */
function look() {
  if (connection?.readyState !== WebSocket.OPEN || document.hidden) return;
  connection.send(JSON.stringify({ watch: wall.wishes() }));
}

function showStatus(status) {
  document.body.classList.remove("lost");
  if (stages.join() !== status.stages.join()) {
    stages = status.stages;
    showLegend();
  }
  const words = { ready: "live", draining: "draining", unready: "not ready" };
  setState(status.state, words[status.state]);
  if (status.state === "draining") {
    banner("warn", "The server is draining: what waits is still answered, new streams go elsewhere.");
  } else if (status.state === "unready") {
    banner("warn", `The server is not ready: ${status.reason}.`);
  } else {
    banner("", "");
  }
  const open = status.streams.filter((stream) => stream.gone_s === null).length;
  say(at("total-streams"), String(open));
  say(at("total-in"), rate(status.totals.received_fps));
  say(at("total-ok"), rate(status.totals.ok_fps));
  const { received_fps: received, ok_fps: ok } = status.totals;
  say(at("total-share"), received ? `${Math.min(100, Math.round((100 * ok) / received))} %` : "–");
  wall.update(status.streams, stages);
  updateEngines(at("engine-cards"), status.engines, status.unserved);
  at("empty").hidden = status.streams.length > 0;
  at("legend").hidden = status.streams.length === 0;
  showCommands(status.address);
  say(at("about"), `Foveate ${status.version} on ${status.server}`);
  document.title = `${open ? `(${open}) ` : ""}Foveate live · ${status.server}`;
}

async function showPicture(from, data) {
  try {
    const length = new DataView(data).getUint32(0);
    const caption = JSON.parse(text.decode(new Uint8Array(data, HEADER_BYTES, length)));
    const jpeg = new Blob([new Uint8Array(data, HEADER_BYTES + length)], { type: "image/jpeg" });
    wall.show(caption, await createImageBitmap(jpeg));
  } catch (error) {
    if (!(error instanceof DOMException)) throw error; // a picture that this browser cannot read: the next one follows
  } finally {
    if (from.readyState === WebSocket.OPEN) from.send('{"drawn":1}');
  }
}

function showLegend() {
  at("legend").replaceChildren(...stages.map((stage) => {
    const item = document.createElement("li");
    item.dataset.stage = stage;
    item.style.setProperty("--colour", `var(--${stage})`);
    item.append(document.createElement("i"), STAGE_WORDS[stage] || stage);
    return item;
  }));
}

function showCommands(address) {
  const local = /^(0\.0\.0\.0|\[::\]|):/;
  const server = local.test(address) ? `${location.hostname}:${address.split(":").pop()}` : address;
  sayWords(at("command-watch"), `foveate watch rtsp://CAMERA/stream --server ${server}`);
  sayWords(at("command-stream"), `foveate stream VIDEO.mp4 --server ${server}`);
  say(at("grpc-address"), server);
}

/** As `say`, and lines break between words only, not at hyphens. */
function sayWords(element, words) {
  if (element.textContent === words) return;
  element.replaceChildren(...words.split(/(?<= )/).map((word) => {
    const part = document.createElement("span");
    part.textContent = word;
    return part;
  }));
}

function setState(state, words) {
  at("state").dataset.state = state;
  say(at("state"), words);
}

function banner(kind, words) {
  const element = at("banner");
  element.hidden = !words;
  element.dataset.kind = kind;
  say(element, words);
}

async function copy(button) {
  const code = at(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(code.textContent);
    say(button, "Copied");
  } catch { // only allowed over HTTPS and on the machine itself: select it, for the user to copy
    getSelection().selectAllChildren(code);
    say(button, "Selected");
  }
  setTimeout(() => say(button, "Copy"), 1500);
}

for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copy(button));
document.addEventListener("keydown", (event) => event.key === "Escape" && wall.shrinkAll());
document.addEventListener("visibilitychange", () => {
  if (document.hidden && connection?.readyState === WebSocket.OPEN) connection.send('{"watch":{}}');
  heardAt = performance.now();
  look();
});
setInterval(() => {
  look();
  const silent = performance.now() - heardAt;
  if (connection?.readyState === WebSocket.OPEN && !document.hidden && silent > SILENT_AFTER_MS) {
    lose(`No word from the server for ${Math.round(silent / 1000)} s.`);
    connection.close(); // which ends in onclose, as every loss does
  }
}, LOOKING_EVERY_MS);
connect();
