'use strict';

const { bindError, joinHostPort, splitHostPort } = require('../addresses.js');
const { overlaps, parseNetwork, usedNetworks, formatNetwork } = require('../subnet.js');
const { checkCertificate } = require('./certificate.js');
const { get } = require('./http.js');
const { check } = require('./result.js');

/**
 * What a server of this configuration needs.
 *
 * @param {import('./host.js').Host} host
 * @param {Record<string, any>} config
 * @returns {Promise<import('./result.js').Result[]>}
 */
async function checkServer(host, config) {
  return [await checkPort(host, config), ...checkCertificate(config, host.now()), checkSubnet(config)];
}

async function checkPort(host, { listenAddr, tlsCert }) {
  const { ok, warn, fail } = check('port');
  const address = splitHostPort(listenAddr);
  const error = await bindError(address.host, address.port);
  switch (error?.code) {
    case undefined:
      return ok(`${listenAddr} is free`);
    case 'EADDRINUSE': {
      if (await servesAlready(address, tlsCert !== undefined)) {
        return warn(`${listenAddr} is in use, by a smartvpn server that runs already`, 'npx smartvpn status');
      }
      return fail(
        `${listenAddr} is in use`,
        `${host.sudo(`ss -ltnp 'sport = :${address.port}'`)} tells by whom`,
      );
    }
    case 'EACCES':
      return fail(
        `${listenAddr} is below 1024, which needs root or CAP_NET_BIND_SERVICE`,
        'sudo npx smartvpn …',
      );
    case 'EADDRNOTAVAIL':
      return fail(
        `${address.host} is no address of this host`,
        `"listenAddr": "${joinHostPort('0.0.0.0', address.port)}"`,
      );
    default:
      return fail(`${listenAddr} cannot be listened on: ${error.message}`, 'choose another listenAddr');
  }
}

async function servesAlready({ host, port }, secure) {
  const local = { '0.0.0.0': '127.0.0.1', '::': '::1' }[host] ?? host;
  const answer = await get({ host: local, port, secure, path: '/healthz' });
  return answer.status === 200 && answer.body.trim() === 'ok';
}

function checkSubnet({ subnet }) {
  const { ok, warn } = check('subnet');
  const own = parseNetwork(subnet);
  const taken = own && usedNetworks().find((network) => overlaps(network, own));
  if (!taken) return ok(`${subnet} is free`);
  return warn(
    `${subnet} overlaps ${formatNetwork(taken)}, to which this host has a route; or the server runs already`,
    'ip route show table all',
  );
}

module.exports = { checkServer };
