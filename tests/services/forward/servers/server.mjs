// Takes POSTs, says how many it got and over how many connections at /stats, and closes what is idle. Prints its port.
import { createServer } from "node:http";

const idle = Number(process.argv[2]);
let connections = 0;
const ids = new Map();

// Node adds a second to its own timeout; here a socket is closed when it was idle for just so long.
const watch = (socket) => (socket.closing = setTimeout(() => socket.destroy(), idle));

const server = createServer((request, response) => {
  clearTimeout(request.socket.closing);
  response.on("finish", () => watch(request.socket));
  if (request.url === "/stats") {
    response.setHeader("Connection", "close");
    response.end(JSON.stringify({ connections, requests: [...ids.values()].reduce((a, b) => a + b, 0), distinct: ids.size }));
    return;
  }
  let body = "";
  request.on("data", (part) => (body += part));
  request.on("end", () => {
    ids.set(body, (ids.get(body) ?? 0) + 1);
    response.setHeader("Content-Type", "text/plain");
    response.end("taken");
  });
});
server.on("connection", () => (connections += 1));
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
