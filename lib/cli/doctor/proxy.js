'use strict';

const { request } = require('node:http');

/** A proxy that takes longer does not answer. */
const TIMEOUT_MS = 5000;

/**
 * Has an HTTP proxy connect to a server.
 *
 * @param {string} url of the proxy, as a configuration has it
 * @param {string} host
 * @param {number} port
 * @returns {Promise<{ socket?: import('node:net').Socket, status?: number, error?: NodeJS.ErrnoException }>}
 */
function connectThrough(url, host, port) {
  const proxy = new URL(url);
  const target = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  const user = Buffer.concat([decode(proxy.username), Buffer.from(':'), decode(proxy.password)]);
  const authorization = { 'Proxy-Authorization': `Basic ${user.toString('base64')}` };
  return new Promise((resolve) => {
    const asking = request({
      host: proxy.hostname.replace(/^\[|\]$/g, ''),
      port: Number(proxy.port) || 80,
      method: 'CONNECT',
      path: target,
      headers: { Host: target, ...(proxy.username || proxy.password ? authorization : {}) },
      agent: false,
    });
    const timer = setTimeout(
      () => asking.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })),
      TIMEOUT_MS,
    );
    asking.once('error', (error) => {
      clearTimeout(timer);
      resolve({ error });
    });
    asking.once('connect', ({ statusCode }, socket, head) => {
      clearTimeout(timer);
      if (statusCode >= 200 && statusCode < 300) {
        socket.unshift(head);
        resolve({ socket, status: statusCode });
      } else {
        socket.destroy();
        resolve({ status: statusCode });
      }
    });
    asking.end();
  });
}

/** The bytes of a percent-encoded text, which need not be UTF-8. */
function decode(text) {
  const latin1 = text.replace(/%([0-9a-f]{2})/gi, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16)));
  return Buffer.from(latin1, 'latin1');
}

module.exports = { connectThrough };
