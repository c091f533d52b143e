// Asks the server that the page came from.

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const answer = await response
    .json()
    .catch(() => ({ error: `the server answered ${response.status}`, hint: "" }));
  if (!response.ok) throw new Error(`${answer.error}; ${answer.hint}`);
  return answer;
}

// Returns the name of the model, the size of its images, the names of its classes, and a command that asks, too.
export async function load() {
  const { model, height, width, class_names } = await ask("health");
  const command = `curl --data-binary @digit.png ${new URL("predict", document.baseURI)}`;
  return { name: model, height, width, class_names, command };
}

// Returns the digit on a canvas, all probabilities, warnings, and the image that the model saw.
export async function classify(canvas) {
  const picture = await new Promise((resolve) => canvas.toBlob(resolve));
  return ask("predict?image", { method: "POST", body: picture });
}
