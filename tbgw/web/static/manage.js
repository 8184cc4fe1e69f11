// The sheet with which a device is commanded. As everywhere here, what came from a device is only ever set as text.

const byId = (id) => document.getElementById(id);

let device = null;
let busy = 0;

function say(text, bad = false) {
  byId("manage-said").textContent = text;
  byId("manage-said").classList.toggle("bad", bad);
}

// JSON, or else the text itself.
function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

async function command(name, members) {
  busy += 1;
  say("Working\u2026");
  try {
    const answer = await fetch(`/api/sandbox/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(members),
    });
    const value = await answer.json();
    if (!answer.ok) throw new Error(value.error || `HTTP ${answer.status}`);
    say("Done");
    return value;
  } catch (error) {
    say(error.message, true);
    return null;
  } finally {
    busy -= 1;
  }
}

function showShared() {
  const rows = Object.keys(device.shared).sort().map((key) => {
    const item = document.createElement("li");
    const row = document.createElement("div");
    row.className = "row wide";
    const name = document.createElement("span");
    name.className = "key";
    name.textContent = key;
    const value = document.createElement("span");
    value.className = "value";
    const held = device.shared[key].value;
    value.textContent = typeof held === "string" ? held : JSON.stringify(held);
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "quiet";
    remove.textContent = "Delete";
    remove.setAttribute("aria-label", `Delete ${key}`);
    remove.addEventListener("click", () => command("unset", { device: device.name, keys: [key] }));
    row.append(name, value, remove);
    item.append(row);
    return item;
  });
  byId("shared-list").replaceChildren(...rows);
}

export function openManage(shown) {
  device = shown;
  byId("manage-device").textContent = shown.name;
  byId("rename-to").value = "";
  byId("rpc-answer").hidden = true;
  settle();
  say("");
  showShared();
  byId("manage").showModal();
}

// A device changed (`changed`), or there is none of this name any more (`gone`).
export function refreshManage(changed, gone = "") {
  if (!device || !byId("manage").open) return;
  if (changed && changed.name === device.name) {
    device = changed;
    showShared();
  } else if (gone === device.name && !busy) {
    byId("manage").close();
  }
}

byId("shared-set").addEventListener("click", async () => {
  const key = byId("shared-key").value;
  if (!key) return say("An attribute has a key", true);
  const values = { [key]: read(byId("shared-value").value) };
  if (await command("set", { device: device.name, values })) byId("shared-value").value = "";
});

byId("rpc-call").addEventListener("click", async () => {
  const text = byId("rpc-params").value;
  const members = { device: device.name, method: byId("rpc-method").value, params: text ? read(text) : null };
  byId("rpc-answer").hidden = true;
  const answer = await command("rpc", members);
  if (answer) {
    byId("rpc-answer").textContent = JSON.stringify(answer.response, null, 2);
    byId("rpc-answer").hidden = false;
  }
});

function base64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

byId("ota-offer").addEventListener("click", async () => {
  const file = byId("ota-file").files[0];
  if (!file) return say("A package has a file", true);
  const about = { kind: byId("ota-kind").value, title: byId("ota-title").value, version: byId("ota-version").value };
  const data = base64(new Uint8Array(await file.arrayBuffer()));
  if (await command("package-add", { ...about, data })) await command("assign", { ...about, device: device.name });
});

byId("ota-withdraw").addEventListener("click", () => {
  command("unassign", { device: device.name, kind: byId("ota-kind").value });
});

byId("rename").addEventListener("click", async () => {
  const name = byId("rename-to").value;
  if (await command("rename", { device: device.name, name })) byId("manage").close();
});

byId("cut").addEventListener("click", () => command("cut", { device: device.name }));

function settle() {
  byId("delete").textContent = "Delete";
  delete byId("delete").dataset.sure;
}

byId("delete").addEventListener("click", async () => {
  if (!byId("delete").dataset.sure) {
    byId("delete").dataset.sure = "asked";
    byId("delete").textContent = "Really delete?";
    return;
  }
  settle();
  if (await command("delete", { device: device.name })) byId("manage").close();
});
