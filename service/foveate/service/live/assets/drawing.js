// What is drawn on canvases: pictures with their annotations, and the strip of a stream's last frames.

const CLASS_COLOURS = [
  "#5fd6c4", "#ffb454", "#6cb6ff", "#ff8f80", "#c6e36a", "#e58bd0", "#ffe066", "#9d8cff", "#5fe08a", "#ff9ec4",
];
const LEAST_POINT_SCORE = 0.3;

/** Make a canvas as fine as the screen, and give its drawing context, its width and its height in CSS pixels. */
function fitted(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  const [fineWidth, fineHeight] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== fineWidth || canvas.height !== fineHeight) {
    canvas.width = fineWidth;
    canvas.height = fineHeight;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** A picture as large as fits, with what was said of it; boxes are in pixels of the frame, whatever the picture's. */
export function drawPicture(canvas, bitmap, caption) {
  const { context, width, height } = fitted(canvas);
  if (!width || !height) return;
  const scale = Math.min(width / bitmap.width, height / bitmap.height);
  const [shownWidth, shownHeight] = [bitmap.width * scale, bitmap.height * scale];
  const [left, top] = [(width - shownWidth) / 2, (height - shownHeight) / 2];
  context.imageSmoothingQuality = "medium";
  context.drawImage(bitmap, left, top, shownWidth, shownHeight);
  const place = {
    left, top, right: left + shownWidth, bottom: top + shownHeight,
    x: (value) => left + (value * shownWidth) / (caption.width || bitmap.width),
    y: (value) => top + (value * shownHeight) / (caption.height || bitmap.height),
  };
  const large = width > 620;
  context.font = `600 ${large ? 13 : 11}px system-ui, sans-serif`;
  context.textBaseline = "top";
  const boxes = caption.boxes || [];
  for (const each of boxes.slice().reverse()) drawBox(context, place, each, large); // the best lies on top
  if (caption.found > boxes.length) note(context, place, [`+${caption.found - boxes.length} more`]);
  if (caption.classes) note(context, place, caption.classes.slice(0, large ? 5 : 3).map(scored));
  if (caption.embedding) note(context, place, [`embedding of ${caption.embedding} numbers`]);
}

function scored(each) {
  return `${each.label} ${Math.round(each.score * 100)} %`;
}

function drawBox(context, place, each, large) {
  const [x1, y1, x2, y2] = each.box;
  const [left, top, right, bottom] = [place.x(x1), place.y(y1), place.x(x2), place.y(y2)];
  const colour = CLASS_COLOURS[(each.track || each.class) % CLASS_COLOURS.length];
  const line = large ? 2.5 : 2;
  for (const [style, lineWidth] of [["rgb(0 0 0 / 55%)", line + 2], [colour, line]]) {
    context.strokeStyle = style;
    context.lineWidth = lineWidth;
    context.strokeRect(left, top, right - left, bottom - top);
  }
  for (const [x, y, score] of each.points || []) {
    if (score && score < LEAST_POINT_SCORE) continue; // 0: the model does not say how sure it is
    context.beginPath();
    context.arc(place.x(x), place.y(y), large ? 3 : 2, 0, 2 * Math.PI);
    context.fillStyle = colour;
    context.fill();
    context.lineWidth = 1;
    context.strokeStyle = "rgb(0 0 0 / 70%)";
    context.stroke();
  }
  const words = [each.track ? `${each.label} #${each.track}` : scored(each)];
  for (const attribute of each.attributes || []) words.push(large ? scored(attribute) : attribute.label);
  label(context, place, words.join(" · "), left - line / 2, top, bottom, colour);
}

/** The words on a box: above it, or inside where there is no room above; never beyond the picture. */
function label(context, place, text, left, top, bottom, colour) {
  const size = parseInt(context.font.match(/(\d+)px/)[1], 10), height = size + 5;
  const width = Math.min(context.measureText(text).width + 8, place.right - place.left);
  const x = Math.max(place.left, Math.min(left, place.right - width));
  const y = top - height >= place.top ? top - height : Math.max(place.top, Math.min(top, place.bottom - height));
  context.fillStyle = colour;
  context.fillRect(x, y, width, height);
  context.fillStyle = "#081014";
  context.fillText(text, x + 4, y + 3, width - 8);
}

/** Lines of text in the picture's lower left corner. */
function note(context, place, lines) {
  const size = parseInt(context.font.match(/(\d+)px/)[1], 10), step = size + 5;
  const width = Math.max(...lines.map((line) => context.measureText(line).width)) + 14;
  const top = place.bottom - lines.length * step - 10;
  context.fillStyle = "rgb(8 12 16 / 72%)";
  context.fillRect(place.left, top, width, lines.length * step + 10);
  context.fillStyle = "#f2f6fa";
  lines.forEach((line, row) => context.fillText(line, place.left + 7, top + 7 + row * step));
}

/**
 * The last frames of a stream, the newest on the right. What was answered OK stands as high as the part of its budget
 * that it took; the line is the budget. All else goes all the way up, what was merely replaced by a newer frame is low.
 */
export function drawStrip(canvas, frames, places, verdicts, colours) {
  const { context, width, height } = fitted(canvas);
  const step = width / places, full = height - 6, bar = Math.max(1, step - 1);
  frames.forEach(([verdict, share], index) => {
    const name = verdicts[verdict];
    const part = name === "ok" ? Math.max(0.04, Math.min(share, 1.2)) : name === "superseded" ? 0.12 : 1.2;
    const tall = Math.min(part * full, height);
    context.fillStyle = colours[name];
    context.fillRect(width - (frames.length - index) * step, height - tall, bar, tall);
  });
  context.fillStyle = colours.line;
  context.fillRect(0, height - full, width, 1);
}
