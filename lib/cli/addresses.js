'use strict';

const { createSocket } = require('node:dgram');
const { createServer, isIP, isIPv4 } = require('node:net');
const { networkInterfaces } = require('node:os');

/** How far away an address is taken for that tells which way leads out (RFC 5737, RFC 3849). */
const FAR_AWAY = { udp4: '192.0.2.1', udp6: '2001:db8::1' };

const PRIVATE =
  /^(10\.|172\.(1[6-9]|2\d|3[01])\.|192\.168\.|100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])\.|169\.254\.|f[cd])/i;

/** How many ports are tried from the first on. */
const PORTS_TRIED = 20;

/**
 * The address that others may reach this host by: the one it takes for its way out, else any that is
 * not its own loop. No packet is sent.
 *
 * @returns {Promise<string | undefined>}
 */
async function ownAddress() {
  for (const family of ['udp4', 'udp6']) {
    const address = await sourceAddress(family);
    if (address !== undefined) return address;
  }
  const own = Object.values(networkInterfaces()).flat();
  return own.find(({ internal, address }) => !internal && !address.startsWith('fe80'))?.address;
}

function sourceAddress(family) {
  return new Promise((resolve) => {
    const socket = createSocket(family);
    const end = (address) => {
      socket.close();
      resolve(address);
    };
    socket.once('error', () => end(undefined));
    // A datagram socket that is connected has looked up its route, and sent nothing.
    socket.connect(9, FAR_AWAY[family], () => end(socket.address().address));
  });
}

/** Whether others need a port forwarded to reach the address. */
function isPrivate(address) {
  return PRIVATE.test(address);
}

/**
 * Whether a port can be listened on.
 *
 * @returns {Promise<NodeJS.ErrnoException | null>} what keeps from it
 */
function bindError(host, port) {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', resolve);
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(null)));
  });
}

/** The first port from `port` on that nobody has. A port that only root may take counts as free. */
async function freePort(host, port) {
  for (let tried = port; tried < port + PORTS_TRIED; tried++) {
    if ((await bindError(host, tried))?.code !== 'EADDRINUSE') return tried;
  }
  return port;
}

/** `host:port`, with the brackets that an IPv6 address needs. */
function joinHostPort(host, port) {
  return isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
}

/** @returns {{ host: string, port: number } | undefined} */
function splitHostPort(text) {
  const [, v6, host = v6, port] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text) ?? [];
  return host === undefined ? undefined : { host, port: Number(port) };
}

module.exports = { bindError, freePort, isIPv4, isPrivate, joinHostPort, ownAddress, splitHostPort };
