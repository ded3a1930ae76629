// SPDX-License-Identifier: Apache-2.0
// What the page shows at first: a list of scenes with their models and cameras, from view.py or from the page itself.
//
// {scenes: [{name, background: [r, g, b] or null, up: [x, y, z] or null,
//            models: [{name, bytes, source, antialiasing}], cameras: [entries of cameras.json, with `photograph`]}],
//  convert: where view.py converts other files, or null}

const NO_SCENE = { name: "", background: null, up: null, models: [], cameras: [] };

export async function readSession() {
  const inPage = document.getElementById("session");
  if (inPage) return embedded(JSON.parse(inPage.textContent));
  const answer = await fetch("../session.json", { cache: "no-store" });
  if (answer.status === 404) return { scenes: [NO_SCENE], convert: null }; // the folder web/ on any server
  if (!answer.ok) throw new Error(`the server answered ${answer.status} to the list of models`);
  const session = await answer.json();
  for (const scene of session.scenes) {
    for (const model of scene.models) model.source = { url: new URL(`../${model.url}`, document.baseURI).href };
    for (const camera of scene.cameras) camera.photograph &&= `../${camera.photograph}`;
  }
  return { ...session, convert: new URL(`../${session.convert}`, document.baseURI).href };
}

// The self-contained page: the file is in it, in base64.
function embedded({ name, bytes }) {
  const text = atob(document.getElementById("model").textContent.trim());
  const data = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) data[i] = text.charCodeAt(i);
  const model = { name, bytes, source: { bytes: data.buffer } };
  return { scenes: [{ ...NO_SCENE, name, models: [model] }], convert: null };
}
