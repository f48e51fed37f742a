'use strict';

const { existsSync } = require('node:fs');

const { VpnClient } = require('../client.js');
const { VpnError } = require('../error.js');
const { VpnServer } = require('../server.js');
const { EXIT, Failure, UsageError } = require('./exit-codes.js');

/** Where `install` puts the sockets of its services, and where they are looked for. */
const DEFAULT_SOCKETS = {
  server: '/run/smartvpn/server.sock',
  client: '/run/smartvpn/client.sock',
};

/** A daemon answers at once. One that takes longer hangs. */
const ANSWER_TIMEOUT_MS = 10_000;

const CLASSES = { client: VpnClient, server: VpnServer };

/** What the way to a daemon fails with; the rest is what the daemon says. */
const UNREACHABLE = new Set(['control-unavailable', 'control-disconnected', 'wrong-mode']);

const SOCKET_OPTION = {
  value: 'PATH',
  help: `The daemon's socket (${DEFAULT_SOCKETS.server} or ${DEFAULT_SOCKETS.client}, if it is there)`,
};

const SERVER_SOCKET_OPTION = {
  value: 'PATH',
  help: `The server daemon's socket (default: ${DEFAULT_SOCKETS.server})`,
};

/**
 * Uses the daemon behind a socket.
 *
 * @template T
 * @param {string} socketPath
 * @param {'client' | 'server'} mode
 * @param {(vpn: any) => Promise<T>} use
 * @returns {Promise<T>}
 * @throws {Failure} with the exit code that says whether no daemon was reached, or it refused
 */
async function withDaemon(socketPath, mode, use) {
  const vpn = new CLASSES[mode]({ transport: { transport: 'socket', socketPath, autoReconnect: false } });
  try {
    await answered(vpn.start(), socketPath);
    return await answered(use(vpn), socketPath);
  } catch (error) {
    if (!(error instanceof VpnError)) throw error;
    throw new Failure(UNREACHABLE.has(error.code) ? EXIT.unreachable : EXIT.refused, error);
  } finally {
    vpn.stop();
  }
}

/**
 * Uses the daemon behind a socket, whichever mode it has.
 *
 * @template T
 * @param {string} socketPath
 * @param {(vpn: any, mode: 'client' | 'server') => Promise<T>} use
 * @returns {Promise<T>}
 */
async function withAnyDaemon(socketPath, use) {
  try {
    return await withDaemon(socketPath, 'server', (vpn) => use(vpn, 'server'));
  } catch (error) {
    if (error.cause?.code !== 'wrong-mode') throw error;
    return withDaemon(socketPath, 'client', (vpn) => use(vpn, 'client'));
  }
}

/** The sockets to look at: the one that was named, else those of the services that are there. */
function findSockets(named, sockets = Object.values(DEFAULT_SOCKETS)) {
  if (named !== undefined) return [checkedPath(named)];
  const found = sockets.filter((path) => existsSync(path));
  if (found.length > 0) return found;
  const message =
    `No daemon is there: neither ${sockets.join(' nor ')} exists. ` +
    'Start the service (`sudo systemctl start smartvpn-server`), or say where the socket is with --socket.';
  throw new Failure(EXIT.unreachable, new VpnError('control-unavailable', message));
}

/** The socket of the server's daemon. */
function serverSocket(named) {
  return named === undefined ? DEFAULT_SOCKETS.server : checkedPath(named);
}

function checkedPath(path) {
  if (path === '') throw new UsageError('--socket needs a path.');
  return path;
}

async function answered(promise, socketPath) {
  let timer;
  const overdue = new Promise((_, reject) => {
    const fail = () =>
      reject(
        new VpnError(
          'control-unavailable',
          `The daemon behind ${socketPath} does not answer. Restart it, and please report this.`,
        ),
      );
    timer = setTimeout(fail, ANSWER_TIMEOUT_MS);
  });
  try {
    return await Promise.race([promise, overdue]);
  } finally {
    clearTimeout(timer);
    // What comes after the time is nobody's concern.
    Promise.resolve(promise).catch(() => {});
  }
}

module.exports = {
  DEFAULT_SOCKETS,
  SERVER_SOCKET_OPTION,
  SOCKET_OPTION,
  findSockets,
  serverSocket,
  withAnyDaemon,
  withDaemon,
};
