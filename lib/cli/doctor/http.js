'use strict';

const { connect: connectTcp } = require('node:net');
const { connect: connectTls } = require('node:tls');

/** A server that takes longer does not answer. */
const TIMEOUT_MS = 5000;

/** What is read of an answer, in bytes: its head and the beginning of what follows. */
const ANSWER_LIMIT = 16 * 1024;

/**
 * @typedef {object} Answer
 * @property {number} [status] of HTTP
 * @property {Record<string, string>} headers by lower-case name
 * @property {string} body its beginning
 * @property {import('node:tls').TLSSocket} [tls] what was agreed with TLS; closed
 * @property {Error} [authorizationError] why the certificate is not trusted
 * @property {import('node:tls').DetailedPeerCertificate} [certificate]
 * @property {NodeJS.ErrnoException} [error] why there is no status
 */

/**
 * Asks with `GET` and shows what comes, trusted or not: nothing secret is sent.
 *
 * @param {{ host: string, port: number, secure: boolean, path: string, servername?: string,
 *   ca?: string[], headers?: Record<string, string>, through?: import('node:net').Socket }} request `through`
 *   leads to the server already
 * @returns {Promise<Answer>}
 */
function get({ host, port, secure, path, servername, ca, headers = {}, through }) {
  return new Promise((resolve) => {
    const answer = { headers: {}, body: '' };
    let text = '';
    const way = through ? { socket: through } : { host, port };
    const socket = secure
      ? connectTls({ ...way, servername, ca, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] })
      : (through ?? connectTcp(way));
    const end = (error) => {
      clearTimeout(timer);
      socket.destroy();
      parse(text, answer);
      if (answer.status === undefined)
        answer.error = error ?? new Error('the connection was closed without an answer');
      resolve(answer);
    };
    const timer = setTimeout(
      () => end(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })),
      TIMEOUT_MS,
    );
    socket.once('error', end);
    socket.once('close', () => end());
    const ask = () => {
      if (secure) {
        answer.certificate = socket.getPeerX509Certificate();
        if (!socket.authorized) answer.authorizationError = socket.authorizationError;
      }
      const lines = Object.entries({ Host: hostHeader(servername ?? host, port, secure), ...headers });
      socket.write(
        `GET ${path} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`,
      );
    };
    if (secure) socket.once('secureConnect', ask);
    else if (through) ask();
    else socket.once('connect', ask);
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1');
      const complete = text.includes('\r\n\r\n');
      if (complete || text.length > ANSWER_LIMIT) end();
    });
  });
}

function hostHeader(host, port, secure) {
  const name = host.includes(':') ? `[${host}]` : host;
  return port === (secure ? 443 : 80) ? name : `${name}:${port}`;
}

function parse(text, answer) {
  const [head, ...rest] = text.split('\r\n\r\n');
  const [first, ...lines] = head.split('\r\n');
  const status = /^HTTP\/1\.[01] (\d{3})/.exec(first)?.[1];
  if (status === undefined) {
    if (text) answer.error = new Error('what answers does not speak HTTP');
    return;
  }
  answer.status = Number(status);
  answer.body = rest.join('\r\n\r\n');
  for (const line of lines) {
    const [, name, value] = /^([^:\s]+):\s*(.*)$/.exec(line) ?? [];
    if (name) answer.headers[name.toLowerCase()] ??= value;
  }
}

module.exports = { get };
