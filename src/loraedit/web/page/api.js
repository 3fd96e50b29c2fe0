// Requests to the server. Every answer is the whole state, so the page is always drawn from one value.

async function answerOf(response) {
  const type = response.headers.get("content-type") || "";
  const value = type.includes("json") ? await response.json() : { error: await response.text() };
  if (!response.ok) throw new Error(value.error || `The server answered ${response.status}.`);
  return value;
}

export async function getState() {
  return answerOf(await fetch("/api/state"));
}

export async function send(method, path, value = {}) {
  const headers = { "content-type": "application/json" };
  return answerOf(await fetch(path, { method, headers, body: JSON.stringify(value) }));
}

// Uploads a file or blob; reports the share that was sent, from 0 to 1. Resolves to its name on the server.
export function upload(kind, blob, onShare = () => {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/upload/${kind}`);
    request.responseType = "json";
    request.upload.onprogress = (event) => onShare(event.loaded / event.total);
    request.onerror = () => reject(new Error("The upload failed. The file may be too large, or the server may have stopped."));
    request.onload = () => {
      if (request.status === 200) resolve(request.response.name);
      else reject(new Error(request.response?.error || `The server answered ${request.status}.`));
    };
    request.send(blob);
  });
}
