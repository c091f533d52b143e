// Runs the model in the browser with ONNX Runtime, for the page without a server.

import { InferenceSession, Tensor, env } from "./runtime/ort.js";
import { prepare } from "./prepare.js";

const UNSURE = 0.8;

env.wasm.numThreads = 1; // more need headers that few servers send
env.logLevel = "error";

let loading = null; // becomes the model's description and its session

async function read(name) {
  const url = new URL(name, import.meta.url);
  const response = await fetch(url).catch(() => null);
  if (!response?.ok) throw new Error(`${name} cannot be read from the server`);
  return response;
}

const readBytes = async (name) => new Uint8Array(await (await read(name)).arrayBuffer());

const readJson = async (name) => (await read(name)).json();

async function open() {
  const files = [readJson("model.json"), readBytes("model.onnx"), readBytes("runtime/ort.wasm")];
  const [model, weights, runtime] = await Promise.all(files);
  env.wasm.wasmBinary = runtime; // read here, because some servers don't know the type of such a file
  return { model, session: await InferenceSession.create(weights, { executionProviders: ["wasm"] }) };
}

// Returns the name of the model, the size of its images and the names of its classes.
export async function load() {
  loading ??= open();
  return (await loading).model;
}

// Returns the digit on a canvas, all probabilities, warnings, and the image that the model saw.
export async function classify(canvas) {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const grey = pixels.filter((_, index) => index % 4 === 0); // red, green and blue are equal
  const { model, session } = await loading; // only now, because the drawing may be cleared meanwhile
  const { height, width, channels_first: channelsFirst } = model;
  const { image, warnings } = prepare(grey, canvas.width, canvas.height, height, width);
  const values = Float32Array.from(image.flat(), (level) => level / 255);
  const input = new Tensor("float32", values, channelsFirst ? [1, 1, height, width] : [1, height, width, 1]);
  const outputs = await session.run({ [session.inputNames[0]]: input });
  const probabilities = [...outputs[session.outputNames[0]].data];
  const [digit, second] = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  if (probabilities[digit] < UNSURE) {
    const share = `${(100 * probabilities[second]).toFixed(1)}%`;
    warnings.unshift(`the model is unsure; ${model.class_names[second]} has a probability of ${share}`);
  }
  return { digit, probability: probabilities[digit], probabilities, warnings, image };
}
