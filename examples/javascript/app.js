// Says hello from JavaScript, on WASI 0.2, with the `fetch` event that service workers have.

import { getEnvironment } from 'wasi:cli/environment@0.2.10';

addEventListener('fetch', (event) => event.respondWith(handle(event.request)));

async function handle(request) {
  // Read for each request: what is computed at the top of the file is computed once, when the app is built.
  const greeting = new Map(getEnvironment()).get('GREETING') ?? 'Hello from JavaScript';
  const { pathname } = new URL(request.url);
  return new Response(`${greeting}, you asked for ${pathname}\n`, {
    headers: { 'content-type': 'text/plain; charset=utf-8' },
  });
}
