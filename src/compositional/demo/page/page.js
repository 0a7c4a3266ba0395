// The page: what can be asked, the request, and the answers as they come, token by token.

const byId = (id) => document.getElementById(id);
const conversation = byId("conversation");
const mainTask = byId("main-task");
const variant = byId("variant");

let offered = [];
let random = { text: "", reference: "" }; // the last random conversation
let taking = null; // the promise of the random conversation that is on its way
let running = null; // the AbortController of the answers that are being made

const NO_SERVER = "The server does not answer: is demo.py still running?";

const capitalized = (text) => text.charAt(0).toUpperCase() + text.slice(1);

const nameOfVariant = (one) => capitalized(one.auxiliary_tasks.join(", ").replace(/^then /, "")) || "None";

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// ---- what can be asked

/** The main tasks, each with the name of its inputs' data set without the language or tone. */
function groups() {
  const found = new Map();
  for (const one of offered) {
    const key = `${one.main_task} (${one.inputs})`;
    if (!found.has(key)) found.set(key, new Map());
    found.get(key).set(nameOfVariant(one), [...(found.get(key).get(nameOfVariant(one)) ?? []), one]);
  }
  return found;
}

function chosenMethods() {
  return groups().get(mainTask.value)?.get(variant.value) ?? [];
}

/** The name of a main task, with its data set where two have the same task. */
function nameOfGroup(key) {
  const [one] = groups().get(key).values().next().value;
  const sets = new Set(offered.filter((other) => other.main_task === one.main_task).map((other) => other.inputs));
  return sets.size > 1 ? key : one.main_task;
}

function showVariants() {
  const names = [...groups().get(mainTask.value).keys()];
  variant.replaceChildren(...names.map((name) => element("option", { value: name, textContent: name })));
  showMethods();
}

function showMethods() {
  const lines = chosenMethods().map((one) =>
    element("label", {}, element("input", { type: "checkbox", value: one.experiment, checked: true }), element("span", { textContent: one.label })),
  );
  byId("methods").replaceChildren(...lines);
  if (conversation.value === random.text) takeRandom();
}

function takeRandom() {
  const own = (taking = fillConversation(() => own === taking));
}

/** Shows a random conversation, unless another was asked for or the user has typed while it was on its way. */
async function fillConversation(isStillWanted) {
  const [one] = chosenMethods();
  const before = conversation.value;
  let found;
  try {
    const response = await fetch(`example?${new URLSearchParams({ experiment: one.experiment })}`);
    found = await response.json();
    if (!response.ok) {
      say(found.message);
      return;
    }
  } catch {
    say(NO_SERVER);
    return;
  }
  if (!isStillWanted() || conversation.value !== before) return;
  random = found;
  conversation.value = random.text;
  say("");
}

// ---- answers

function say(mistake) {
  byId("mistake").textContent = mistake;
  if (mistake) conversation.setAttribute("aria-invalid", "true");
  else conversation.removeAttribute("aria-invalid");
}

const tell = (news) => { byId("news").textContent = news; };

function addCard(one) {
  const card = byId("card").content.firstElementChild.cloneNode(true);
  card.dataset.state = "waiting";
  card.querySelector("h3").textContent = one.label;
  card.querySelector(".experiment").textContent = `${one.experiment}, on ${one.model}`;
  const answer = card.querySelector(".answer");
  answer.textContent = "Waits for its turn.";
  fact(card, "passes", `${one.passes}×`);
  fact(card, "extra_bytes", one.extra_bytes.toLocaleString("en"));
  byId("cards").append(card);
  return card;
}

function fact(card, name, text) {
  card.querySelector(`[data-fact="${name}"]`).textContent = text;
}

function show(card, one, progress) {
  const { texts, done } = progress;
  card.dataset.state = done ? "done" : "answering";
  const before = texts.slice(0, -1).map((text, pass) =>
    element("li", {}, `${one.requests[pass]}: `, element("span", { lang: one.languages[pass], textContent: text })),
  );
  const answer = card.querySelector(".answer");
  card.querySelector(".passes").replaceChildren(...before);
  answer.lang = one.languages[texts.length - 1];
  answer.textContent = texts.at(-1) || (done ? "(no text)" : "");
  fact(card, "seconds", progress.seconds.toFixed(2));
  const notes = [];
  if (progress.text_was_cut) notes.push("The conversation is too long for the model: its end was not read.");
  if (progress.answer_was_cut) notes.push("The answer reached the limit of new tokens.");
  card.querySelector(".note").textContent = notes.join(" ");
  if (done) tell(`${one.label} has answered in ${progress.seconds.toFixed(2)} seconds.`);
}

function showFailure(card, one, reason) {
  card.dataset.state = "stopped";
  card.querySelector(".answer").textContent = "";
  card.querySelector(".note").textContent = `No answer: ${reason}`;
  tell(`${one.label} has failed.`);
}

/** The lines of a streamed response, as they come. */
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const found = (rest + part.value).split("\n");
    rest = found.pop();
    yield* found;
  }
}

async function ask() {
  running?.abort();
  const own = (running = new AbortController());
  const names = [...document.querySelectorAll("#methods input:checked")].map((box) => box.value);
  const asked = chosenMethods().filter((one) => names.includes(one.experiment));
  byId("stop").disabled = false;
  byId("cards").replaceChildren();
  byId("target").hidden = true;
  tell("");
  say("");
  await taking;
  const text = conversation.value;
  const { text: taken, reference } = random;
  let cards = new Map();
  let failed = 0;
  try {
    const response = await fetch("answers", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ text, experiments: names }),
      signal: own.signal,
    });
    if (!response.ok) {
      say((await response.json()).message);
      conversation.focus();
      tell("No answer.");
      return;
    }
    byId("target").hidden = text !== taken;
    byId("target").querySelector("p").textContent = reference;
    byId("target").querySelector("p").lang = asked[0].languages.at(-1);
    tell("The methods answer.");
    cards = new Map(asked.map((one) => [one.experiment, addCard(one)]));
    for await (const line of lines(response)) {
      const progress = JSON.parse(line);
      const one = asked.find((other) => other.experiment === progress.experiment);
      if (progress.failed) {
        failed += 1;
        showFailure(cards.get(one.experiment), one, progress.failed);
      } else {
        show(cards.get(one.experiment), one, progress);
      }
    }
    tell(failed ? `${failed} of ${asked.length} methods failed.` : "All methods have answered.");
  } catch (error) {
    if (error.name !== "AbortError") say(cards.size ? "The answers broke off: what demo.py prints may say why." : NO_SERVER);
    if (own === running) tell(error.name === "AbortError" ? "Stopped." : "No answer.");
    for (const card of cards.values()) {
      if (card.dataset.state === "waiting") card.querySelector(".answer").textContent = "";
      if (card.dataset.state !== "done") card.dataset.state = "stopped";
    }
  } finally {
    if (own === running) byId("stop").disabled = true;
  }
}

// ---- start

byId("request").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
byId("stop").addEventListener("click", () => {
  running?.abort();
  byId("answer").focus();
});
byId("random").addEventListener("click", takeRandom);
mainTask.addEventListener("change", showVariants);
variant.addEventListener("change", showMethods);

offered = await (await fetch("offered")).json();
mainTask.replaceChildren(...[...groups().keys()].map((key) => element("option", { value: key, textContent: nameOfGroup(key) })));
showVariants();
