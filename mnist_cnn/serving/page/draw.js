// The page: draws strokes, asks the model while they grow, and shows its answer.
// classifier.js is how it asks: through the server (ask_server.js), or in the browser (run_model.js).

import { classify, load } from "./classifier.js";

const PEN = 22; // pixels of the canvas; as thick as MNIST's strokes when the digit is fitted into its box
const EDGE = PEN / 2 + 6; // the ink keeps away from the edge, which shows the background

const element = (id) => document.getElementById(id);
const drawing = element("drawing");
const pen = drawing.getContext("2d", { alpha: false, willReadFrequently: true });
const seen = element("seen").getContext("2d");

const model = load();
let last = null; // where the pen was, while it is down
let isBlank = true;
let isChanged = false; // since the model was asked
let isAsking = false;

function clear() {
  pen.fillStyle = "black";
  pen.fillRect(0, 0, drawing.width, drawing.height);
  isBlank = true;
  isChanged = false;
  last = null;
  show(null);
}

function place(event) {
  const box = drawing.getBoundingClientRect();
  const inside = (value, size) => Math.min(Math.max(value, EDGE), size - EDGE);
  return {
    x: inside(((event.clientX - box.left) * drawing.width) / box.width, drawing.width),
    y: inside(((event.clientY - box.top) * drawing.height) / box.height, drawing.height),
  };
}

function stroke(from, to) {
  pen.strokeStyle = pen.fillStyle = "white";
  pen.lineWidth = PEN;
  pen.lineCap = "round";
  pen.beginPath();
  pen.arc(to.x, to.y, PEN / 2, 0, 2 * Math.PI);
  pen.fill();
  pen.beginPath();
  pen.moveTo(from.x, from.y);
  pen.lineTo(to.x, to.y);
  pen.stroke();
  isBlank = false;
  isChanged = true;
  ask();
}

async function ask() {
  if (isAsking) return; // the answer is followed by the next question
  isAsking = true;
  try {
    while (isChanged) {
      isChanged = false;
      const answer = await classify(drawing);
      if (!isBlank) show(answer);
      report("");
    }
  } catch (error) {
    report(error.message);
  } finally {
    isAsking = false;
  }
}

let names = [..."0123456789"]; // of the classes, until the model is known

function report(problem) {
  element("problem").textContent = problem;
  element("problem").hidden = !problem;
}

const percent = (share) => `${(100 * share).toFixed(1)}%`;

function show(answer) {
  const probabilities = answer ? answer.probabilities : [];
  const rows = [...element("bars").children];
  rows.forEach((row, digit) => {
    const share = probabilities[digit] ?? 0;
    const meter = row.querySelector(".meter");
    meter.setAttribute("aria-valuenow", share.toFixed(3));
    meter.setAttribute("aria-valuetext", percent(share));
    meter.firstChild.style.transform = `scaleX(${share})`;
    row.querySelector(".share").textContent = answer ? percent(share) : "";
    row.classList.toggle("first", answer !== null && digit === answer.digit);
  });
  element("digit").textContent = answer ? names[answer.digit] : "–";
  element("warnings").textContent = answer ? answer.warnings.join("; ") : "";
  paint(answer ? answer.image : []);
}

function paint(image) {
  const size = seen.canvas;
  seen.fillStyle = "black";
  seen.fillRect(0, 0, size.width, size.height);
  if (!image.length) return;
  const pixels = seen.createImageData(size.width, size.height);
  image.flat().forEach((level, index) => pixels.data.set([level, level, level, 255], 4 * index));
  seen.putImageData(pixels, 0, 0);
}

function addBars() {
  const bars = names.map((className) => {
    const row = document.createElement("li");
    const [name, meter, share] = ["span", "div", "span"].map((tag) => document.createElement(tag));
    name.textContent = className;
    meter.className = "meter";
    meter.append(document.createElement("div"));
    const described = {
      role: "meter",
      "aria-label": `Probability of ${className}`,
      "aria-valuemin": 0,
      "aria-valuemax": 1,
    };
    for (const [key, value] of Object.entries(described)) meter.setAttribute(key, value);
    share.className = "share";
    row.append(name, meter, share);
    return row;
  });
  element("bars").replaceChildren(...bars);
}

drawing.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button !== 0) return; // a second finger, or another button
  drawing.setPointerCapture(event.pointerId);
  last = place(event);
  stroke(last, last);
});
drawing.addEventListener("pointermove", (event) => {
  if (last === null || !event.isPrimary) return;
  const events = event.getCoalescedEvents?.() ?? [];
  for (const each of events.length ? events : [event]) {
    const next = place(each);
    stroke(last, next);
    last = next;
  }
});
for (const name of ["pointerup", "pointercancel"]) {
  drawing.addEventListener(name, (event) => {
    if (event.isPrimary) last = null; // a second finger does not end the stroke
  });
}
element("clear").addEventListener("click", clear);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") clear();
});

addBars();
clear();
try {
  const { name, height, width, class_names: classNames, command } = await model;
  element("model").textContent = name;
  element("command").textContent = command;
  element("upload").hidden = !command; // without a server, nothing can be sent
  element("size").textContent = `${height} × ${width}`;
  Object.assign(seen.canvas, { width, height });
  names = classNames;
  addBars();
  clear();
} catch (error) {
  report(error.message);
}
