// Prepares a drawing as mnist_cnn/prediction/pictures.py prepares a picture, to the last bit.
// The drawing is light ink on black that keeps away from the edge, so the background need not be measured.
// NumPy computes in float32 there; Math.fround does the same here.

const INK_BOX = 20 / 28;
const MIN_CONTRAST = 8;
const MIN_INK = 0.2;
const MAX_BLUR = 3;
const MIN_PART = 0.03;
const SHAPE_HEIGHT = 0.5;
const FRAME_SIDE = 0.8;

const SHAPES_WARNING = "the picture holds several shapes, which were read as one digit; crop it to one";
const FRAME_WARNING = "the picture has a frame, which was read as a part of the digit; crop it";

const { fround } = Math;
const clip = (value, low, high) => Math.min(Math.max(value, low), high);
const sum = (values) => values.reduce((total, value) => total + value, 0);

/** A field of numbers: `values` holds its rows one after the other. */
class Field {
  constructor(width, height, values = new Float32Array(width * height)) {
    Object.assign(this, { width, height, values });
  }

  at(x, y) {
    return this.values[y * this.width + x];
  }
}

/**
 * Returns the image of a drawing, and warnings; null if the drawing is blank.
 *
 * `grey` has the drawing's levels, 0 to 255. The image is an array of `height` rows with `width` levels.
 */
export function prepare(grey, columns, rows, height, width) {
  const found = findInk(new Field(columns, rows, Float32Array.from(grey)));
  if (found === null) return null;
  const box = [Math.max(1, roundHalfEven(INK_BOX * height)), Math.max(1, roundHalfEven(INK_BOX * width))];
  return { image: centre(fit(found.ink, ...box), height, width), warnings: found.warnings };
}

function findInk(signal) {
  const candidates = signal.values.filter((value) => value > MIN_CONTRAST / 2);
  if (!candidates.length) return null;
  const threshold = otsu(candidates);
  const contrast = percentile(
    candidates.filter((value) => value >= threshold),
    90,
  );
  if (contrast < MIN_CONTRAST) return null;
  let low = fround(Math.min(threshold, MIN_INK * contrast));
  const isStrong = signal.values.map((value) => value >= threshold);
  if (signal.values.filter((value) => value >= low).length > MAX_BLUR * sum(isStrong))
    low = fround(threshold);
  const parts = largeParts(
    new Field(
      signal.width,
      signal.height,
      signal.values.map((value) => value >= low),
    ),
    isStrong,
  );
  const { left, top, right, bottom } = parts.box;
  const ink = new Field(right - left, bottom - top);
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      const level = parts.mask.at(x, y) ? fround(signal.at(x, y) / fround(contrast)) : 0;
      ink.values[(y - top) * ink.width + x - left] = clip(level, 0, 1);
    }
  }
  return { ink, warnings: doubts(parts) };
}

/** Otsu's threshold, from a histogram with NumPy's 256 bins. */
function otsu(values) {
  const [lowest, highest] = [Math.min(...extremes(values)), Math.max(...extremes(values))];
  const [first, last] = lowest === highest ? [lowest - 0.5, highest + 0.5] : [lowest, highest];
  const edges = Float32Array.from(
    { length: 257 },
    (_, index) => fround((index * fround(last - first)) / 256) + first,
  );
  edges[256] = last;
  const counts = new Float64Array(256);
  for (const value of values) {
    let bin = Math.min(Math.trunc(fround(fround(fround(value - first) / fround(last - first)) * 256)), 255);
    if (value < edges[bin]) bin -= 1;
    else if (bin < 255 && value >= edges[bin + 1]) bin += 1;
    counts[bin] += 1;
  }
  const total = values.length;
  const sums = [];
  counts.reduce((before, count, bin) => (sums[bin] = before + count * edges[bin]), 0);
  let below = 0;
  let [best, threshold] = [-1, null];
  for (let bin = 0; bin < 255; bin++) {
    below += counts[bin];
    const above = total - below;
    if (below === 0 || above === 0) continue;
    const apart = sums[bin] / Math.max(below, 1) - (sums[255] - sums[bin]) / Math.max(above, 1);
    const variance = below * above * apart * apart;
    if (variance > best) [best, threshold] = [variance, edges[bin + 1]];
  }
  return threshold ?? lowest;
}

function extremes(values) {
  let [low, high] = [values[0], values[0]];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high];
}

/** NumPy's percentile of float32 values, interpolated in float32. */
function percentile(values, percent) {
  const sorted = Float32Array.from(values).sort();
  const place = fround((sorted.length - 1) * fround(percent / 100));
  const before = Math.floor(place);
  const [low, high] = [sorted[before], sorted[Math.min(before + 1, sorted.length - 1)]];
  const share = fround(place - before);
  const apart = fround(high - low);
  return share >= 0.5
    ? fround(high - fround(apart * fround(1 - share)))
    : fround(low + fround(apart * share));
}

/** Keeps the 8-connected parts of a mask that have enough strong pixels. */
function largeParts(mask, isStrong) {
  const { width, height } = mask;
  const labels = new Int32Array(width * height).fill(-1);
  const parts = [];
  for (let start = 0; start < labels.length; start++) {
    if (mask.values[start] && labels[start] < 0)
      parts.push(flood(mask, isStrong, labels, start, parts.length));
  }
  const heaviest = Math.max(...parts.map((part) => part.strong));
  const kept = parts.map((part) => part.strong >= Math.max(1, MIN_PART * heaviest));
  const boxes = parts.filter((_, index) => kept[index]);
  const values = labels.map((label) => (label >= 0 && kept[label] ? 1 : 0));
  return { mask: new Field(width, height, values), boxes, box: around(boxes) };
}

function flood(mask, isStrong, labels, start, label) {
  const { width, height } = mask;
  const box = { left: width, top: height, right: 0, bottom: 0, strong: 0 };
  const waiting = [start];
  labels[start] = label;
  while (waiting.length) {
    const index = waiting.pop();
    const [x, y] = [index % width, Math.floor(index / width)];
    box.left = Math.min(box.left, x);
    box.top = Math.min(box.top, y);
    box.right = Math.max(box.right, x + 1);
    box.bottom = Math.max(box.bottom, y + 1);
    box.strong += isStrong[index];
    for (let row = Math.max(y - 1, 0); row < Math.min(y + 2, height); row++) {
      for (let column = Math.max(x - 1, 0); column < Math.min(x + 2, width); column++) {
        const next = row * width + column;
        if (!mask.values[next] || labels[next] >= 0) continue;
        labels[next] = label;
        waiting.push(next);
      }
    }
  }
  return box;
}

function around(boxes) {
  return {
    left: Math.min(...boxes.map((box) => box.left)),
    top: Math.min(...boxes.map((box) => box.top)),
    right: Math.max(...boxes.map((box) => box.right)),
    bottom: Math.max(...boxes.map((box) => box.bottom)),
  };
}

/** Warns of a frame, or of several shapes side by side or above each other. */
function doubts({ mask, boxes }) {
  const first = (measure) => boxes.reduce((best, box) => (measure(box) > measure(best) ? box : best));
  const tallness = (box) => box.bottom - box.top;
  const largest = first((box) => tallness(box) * (box.right - box.left));
  if (hasFrame(mask, boxes, largest)) return [FRAME_WARNING];
  const tall = first(tallness);
  const isShape = (box) => {
    const isBeside = box.left >= tall.right || box.right <= tall.left;
    const isAbove = box.top >= tall.bottom || box.bottom <= tall.top;
    return (isBeside || isAbove) && tallness(box) >= SHAPE_HEIGHT * tallness(tall);
  };
  return boxes.some(isShape) ? [SHAPES_WARNING] : [];
}

function hasFrame(mask, boxes, { left, top, right, bottom }) {
  const [width, height] = [right - left, bottom - top];
  const band = Math.max(1, Math.floor(Math.min(width, height) / 20));
  const range = (from, to) => Array.from({ length: to - from }, (_, index) => from + index);
  const share = (places, others, has) =>
    sum(places.map((place) => others.some((other) => has(place, other)))) / places.length;
  const [columns, rows] = [range(left, right), range(top, bottom)];
  const sides = [
    share(columns, range(top, top + band), (x, y) => mask.at(x, y)),
    share(columns, range(bottom - band, bottom), (x, y) => mask.at(x, y)),
    share(rows, range(left, left + band), (y, x) => mask.at(x, y)),
    share(rows, range(right - band, right), (y, x) => mask.at(x, y)),
  ];
  if (Math.min(...sides) < FRAME_SIDE) return false;
  const holds = boxes.some(
    (box) => box.top > top && box.bottom < bottom && box.left > left && box.right < right,
  );
  return holds;
}

/** Scales ink into a box, keeping its aspect ratio, and strengthens what became faint. */
function fit(ink, height, width) {
  const scale = Math.min(height / ink.height, width / ink.width);
  const size = [ink.width, ink.height].map((side) => Math.max(1, roundHalfEven(side * scale)));
  const resized = resize(ink, ...size).values.map((value) => Math.max(value, 0));
  const half = fround(extremes(resized)[1] / 2);
  const peak = percentile(
    resized.filter((value) => value >= half),
    75,
  );
  return new Field(
    ...size,
    resized.map((value) => clip(fround(value / peak), 0, 1)),
  );
}

/** Pillow's bicubic resampling: first along the rows, then along the columns. */
function resize(field, width, height) {
  const across = width === field.width ? field : resampleRows(field, width);
  return height === field.height ? across : turned(resampleRows(turned(across), height));
}

function turned(field) {
  const values = field.values.map((_, index) =>
    field.at(Math.floor(index / field.height), index % field.height),
  );
  return new Field(field.height, field.width, values);
}

function resampleRows(field, width) {
  const resampled = new Field(width, field.height);
  const scale = field.width / width;
  const stretch = Math.max(scale, 1);
  const support = 2 * stretch;
  for (let x = 0; x < width; x++) {
    const middle = (x + 0.5) * scale;
    const start = Math.max(Math.trunc(middle - support + 0.5), 0);
    const end = Math.min(Math.trunc(middle + support + 0.5), field.width);
    const weights = Array.from({ length: end - start }, (_, index) =>
      bicubic((index + start - middle + 0.5) * (1 / stretch)),
    );
    const total = sum(weights);
    for (let y = 0; y < field.height; y++) {
      resampled.values[y * width + x] = sum(
        weights.map((weight, index) => field.at(start + index, y) * (weight / total)),
      );
    }
  }
  return resampled;
}

function bicubic(distance) {
  const [x, a] = [Math.abs(distance), -0.5];
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/** Puts ink on black, its centre of mass in the middle, by whole pixels and all inside. */
function centre(ink, height, width) {
  const columns = Array.from({ length: ink.width }, (_, x) =>
    sum(Array.from({ length: ink.height }, (_, y) => ink.at(x, y))),
  );
  const rows = Array.from({ length: ink.height }, (_, y) =>
    sum(Array.from({ length: ink.width }, (_, x) => ink.at(x, y))),
  );
  const place = (masses, size) => {
    const middle = sum(masses.map((mass, index) => mass * index)) / sum(masses);
    const start = Math.round((size / 2 - middle) * 1e6) / 1e6; // a symmetric digit is exactly halfway
    return clip(roundHalfEven(start), 0, size - masses.length);
  };
  const [left, top] = [place(columns, width), place(rows, height)];
  const image = Array.from({ length: height }, () => Array(width).fill(0));
  ink.values.forEach((value, index) => {
    const [x, y] = [index % ink.width, Math.floor(index / ink.width)];
    image[top + y][left + x] = roundHalfEven(fround(value * 255));
  });
  return image;
}

function roundHalfEven(value) {
  const below = Math.floor(value);
  if (value - below === 0.5) return below + (below % 2);
  return Math.round(value);
}
