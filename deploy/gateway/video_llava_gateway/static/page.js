const MAX_TOKENS = 512;
const $ = (id) => document.getElementById(id);

let model = null;
let keepsFiles = true; // the gateway, until it says otherwise
// {file, id: that of its upload, uuid, kind, part: {start_seconds, end_seconds}, known: parts whose frames the gateway has,
//  wasKnown, failed}
let medium = null;
let messages = [];
// Abort the answer, and the reading of a medium; `ready` ends with it.
let answering = null;
let reading = null;
let ready = null;

class ApiError extends Error {
  constructor({ message, code }, response) {
    const seconds = response?.headers.get("retry-after");
    super(seconds ? `${message} (try again in ${seconds} s)` : message);
    Object.assign(this, { code, status: response?.status });
  }
}

function element(name, text, className = "") {
  return Object.assign(document.createElement(name), { textContent: text, className });
}

const say = (text) => ($("status").textContent = text);

function showError(error) {
  $("error").textContent = error?.message;
  $("error").hidden = !error;
  if (error?.status !== 401) return;
  $("key-form").hidden = false;
  $("key").focus();
}

// ---- the gateway

async function call(path, options) {
  const headers = { ...options?.headers };
  if ($("key").value) headers.authorization = `Bearer ${$("key").value.trim()}`;
  const response = await fetch(path, { ...options, headers }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Error("The gateway did not answer, or ended the connection: is it running, is the file too large?");
  });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ApiError(body?.error ?? { message: `The gateway answered with status ${response.status}` }, response);
}

const JSON_TYPE = { "content-type": "application/json" };
const post = (path, body, signal) =>
  call(path, { method: "POST", headers: JSON_TYPE, body: JSON.stringify(body), signal });

async function connect() {
  try {
    const models = await (await call("v1/models")).json();
    model = models.data[0].id;
    $("key-form").hidden = true;
    say(`Model ${model}`);
    showError(null);
  } catch (error) {
    showError(error);
  }
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read: ${reader.error.message}`));
    reader.readAsDataURL(file);
  });
}

// Uploads a medium once. Without an id, its data go with the request.
async function upload(sent, signal) {
  if (sent.id || !keepsFiles) return;
  const body = new FormData();
  body.append("purpose", "user_data");
  body.append("file", sent.file);
  try {
    sent.id = (await (await call("v1/files", { method: "POST", body, signal })).json()).id;
  } catch (error) {
    if (error.status === 404) keepsFiles = false;
    else if (![413, 507].includes(error.status)) throw error; // no room for files
  }
}

function removeUpload(sent) {
  if (sent?.id) call(`v1/files/${sent.id}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

// Posts what `bodyOf` makes of the medium as a part of a message: by its uuid alone while the gateway has its frames.
async function postWithMedium(path, bodyOf, signal, sent = medium) {
  const part = { type: sent.kind, uuid: sent.uuid };
  const name = JSON.stringify([sent.kind, sent.part]);
  sent.wasKnown = sent.known.has(name);
  if (sent.wasKnown) {
    try {
      return await post(path, bodyOf(part), signal);
    } catch (error) {
      if (error.code !== "unknown_uuid") throw error;
      sent.wasKnown = false;
    }
  }
  await upload(sent, signal);
  const url = sent.id ?? (await dataUrl(sent.file));
  signal.throwIfAborted();
  try {
    const response = await post(path, bodyOf({ ...part, [sent.kind]: { url } }), signal);
    sent.known.add(name);
    return response;
  } catch (error) {
    if (error.code !== "file_not_found") throw error; // it has expired
    sent.id = null;
    return postWithMedium(path, bodyOf, signal, sent);
  }
}

// ---- the medium

function chooseFile(file) {
  const random = crypto.getRandomValues(new Uint8Array(16)); // randomUUID needs HTTPS
  const uuid = Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
  removeUpload(medium);
  medium = { file, uuid, part: {}, known: new Set() };
  $("start").value = $("end").value = "";
  // The type is a guess of the browser's: the other kind is tried too.
  const isPicture = file.type.startsWith("image/") && file.type !== "image/gif";
  ready = readMedium(isPicture ? ["image_url", "video_url"] : ["video_url", "image_url"]);
}

function beginAnew() {
  answering?.abort();
  messages = [];
}

async function readMedium(kinds) {
  beginAnew();
  reading?.abort();
  const { signal } = (reading = new AbortController());
  const read = medium;
  showError(null);
  $("frames").hidden = $("part-form").hidden = true;
  $("facts").textContent = read.file.name;
  say(`Reading ${read.file.name} …`);
  try {
    const seen = await framesOf(read, kinds, signal);
    read.failed = false;
    showFrames(read, seen);
  } catch (error) {
    if (signal.aborted) return;
    read.failed = true;
    $("part-form").hidden = !Object.keys(read.part).length; // a part can be changed
    say("");
    showError(error);
  }
}

async function framesOf(read, [kind, ...others], signal) {
  read.kind = kind;
  try {
    const bodyOf = (part) => ({ ...part, mm_processor_kwargs: read.part });
    return await (await postWithMedium("v1/frames", bodyOf, signal)).json();
  } catch (error) {
    if (error.code !== "invalid_media" || !others.length) throw error;
    return framesOf(read, others, signal).catch(() => Promise.reject(error));
  }
}

function showFrames(read, { kind, frames, num_frames, duration_seconds, warnings = [] }) {
  const facts = [read.file.name];
  if (num_frames) facts.push(`${num_frames} frames`);
  if (duration_seconds) facts.push(`${duration_seconds.toFixed(2)} s`);
  $("facts").textContent = [...facts, ...warnings].join(" · ");
  $("frames").replaceChildren(...frames.map(frameItem));
  $("frames").hidden = false;
  $("part-form").hidden = kind !== "video";
  say(kind === "video" ? `${frames.length} frames of ${read.file.name}` : `${read.file.name} is ready`);
}

function frameItem({ index, seconds, url }) {
  const figure = element("figure", "");
  const image = element("img", "");
  image.src = url;
  image.alt = index === null ? "The picture as the model sees it" : `Frame ${index}`;
  figure.append(image);
  if (seconds !== null) figure.append(element("figcaption", `${seconds.toFixed(2)} s`));
  const item = element("li", "");
  item.append(figure);
  return item;
}

// ---- the conversation

function about() {
  const { start_seconds: start, end_seconds: end } = medium.part;
  const from = start === undefined ? "" : ` from ${start} s`;
  return `About ${medium.file.name}${from}${end === undefined ? "" : ` to ${end} s`}`;
}

async function ask(question) {
  const { signal } = (answering = new AbortController());
  const asked = messages;
  const answer = element("p", "", "answer");
  if (medium && !asked.length) $("log").append(element("p", about(), "about"));
  $("log").append(element("p", question, "question"), answer);
  $("log").ariaBusy = "true"; // an answer is read out when it is whole
  $("stop").hidden = false;
  $("question").value = "";
  showError(null);
  asked.push({ role: "user", content: question });
  try {
    await ready;
    signal.throwIfAborted();
    if (medium?.failed) throw new Error(`${medium.file.name} cannot be used: choose another file or part`);
    say("Answering …");
    $("log").append(await readAnswer(answer, asked, signal));
    say("Answered");
  } catch (error) {
    say(signal.aborted ? "Stopped" : "");
    if (!signal.aborted) showError(error);
    $("question").value ||= answer.textContent ? "" : question;
  }
  // What was shown is part of the conversation; a question without an answer is not.
  if (answer.textContent) asked.push({ role: "assistant", content: answer.textContent });
  else asked.pop();
  if (document.activeElement === $("stop")) $("question").focus();
  $("stop").hidden = true;
  $("log").ariaBusy = "false";
  $("log").scrollTop = $("log").scrollHeight;
  answering = null;
}

// Writes the answer as it comes; returns what it took.
async function readAnswer(answer, asked, signal) {
  const body = { model, messages: asked, temperature: 0, max_tokens: MAX_TOKENS, stream: true };
  Object.assign(body, { stream_options: { include_usage: true }, mm_processor_kwargs: medium?.part });
  const [first, ...others] = asked;
  const bodyOf = (part) => {
    const content = [part, { type: "text", text: first.content }];
    return { ...body, messages: [{ ...first, content }, ...others] };
  };
  const path = "v1/chat/completions";
  let [last, reason] = [null, null];
  for await (last of events(await (medium ? postWithMedium(path, bodyOf, signal) : post(path, body, signal)))) {
    if (last.error) throw new ApiError(last.error);
    answer.textContent += last.choices[0]?.delta.content ?? "";
    reason = last.choices[0]?.finish_reason ?? reason;
    $("log").scrollTop = $("log").scrollHeight;
  }
  if (!last?.usage) throw new Error("The answer was cut off: ask again");
  return account(last, reason);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const lines = (rest + read.value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: {")) yield JSON.parse(line.slice(6));
  }
}

// What an answer took, and what did not have to be done again for it.
function account({ usage, metrics }, reason) {
  const stages = Object.entries(metrics.stage_seconds).filter(([, seconds]) => seconds !== null);
  const shown = stages.map(([stage, seconds]) => `${stage.replace("_", " ")} ${seconds.toFixed(3)}`);
  const reused = `${usage.prompt_tokens_details.cached_tokens} of ${usage.prompt_tokens} prompt tokens`;
  const facts = [`${metrics.stage_seconds.total.toFixed(2)} s`, `${usage.completion_tokens} tokens`];
  if (reason === "length") facts.push("cut off at its length");
  facts.push(`reused: ${medium?.wasKnown ? "the frames and " : ""}${reused}`);
  const details = element("details", "");
  details.append(element("summary", facts.join(" · ")));
  details.append(element("p", `Seconds of each stage: ${shown.join(" · ")}`));
  return details;
}

// ---- what the user does

function onSubmit(id, action) {
  $(id).addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}

onSubmit("key-form", connect);
onSubmit("ask-form", () => {
  if (!answering && $("question").value.trim()) ask($("question").value.trim());
});
onSubmit("part-form", () => {
  const given = { start_seconds: $("start").value, end_seconds: $("end").value };
  medium.part = {};
  for (const [name, text] of Object.entries(given)) if (text) medium.part[name] = Number(text);
  ready = readMedium([medium.kind]);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask-form").requestSubmit();
});
$("stop").addEventListener("click", () => answering?.abort());
document.addEventListener("keydown", (event) => event.key === "Escape" && answering?.abort());
$("anew").addEventListener("click", () => {
  beginAnew();
  $("log").replaceChildren();
  $("question").focus();
});
$("file").addEventListener("change", () => $("file").files.length && chooseFile($("file").files[0]));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name !== "drop") return;
    $("file").files = event.dataTransfer.files; // shows its name
    chooseFile($("file").files[0]);
  });
}
addEventListener("pagehide", () => removeUpload(medium));
connect();
