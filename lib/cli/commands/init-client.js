'use strict';

const { hostname } = require('node:os');
const { resolve } = require('node:path');

const { VpnConfig } = require('../../config.js');
const { claimFile } = require('../new-file.js');
const { commandLine } = require('../shell.js');

/** What a server takes as a client's label; the host's name is left out if it is none. */
const LABEL = /^[\w.-]{1,64}$/;

/** @type {import('../arguments.js').Command} */
module.exports = {
  name: 'init client',
  summary: "writes a client's configuration",
  positionals: [
    { name: 'URL', help: "the server's, as wss://vpn.example.com/" },
    { name: 'KEY', help: "the server's public key" },
  ],
  options: {
    out: { value: 'FILE', help: 'The configuration to write (default: client.json)' },
    route: { value: 'CIDR', help: 'A network to send into the tunnel, may be repeated', multiple: true },
    all: { help: 'Send everything into the tunnel: the route 0.0.0.0/0' },
    'tls-ca': { value: 'FILE', help: "Trust this authority instead of the system's, PEM" },
    name: { value: 'LABEL', help: "What the server shows (default: the host's name)" },
    force: { help: 'Replace FILE if it is there' },
  },

  async run({ stdout }, { values, positionals: [serverUrl, serverPublicKey] }) {
    const file = values.out ?? 'client.json';
    const ca = values['tls-ca'];
    const routes = [...(values.route ?? []), ...(values.all ? ['0.0.0.0/0'] : [])];
    const name = values.name ?? hostname();
    const config = {
      serverUrl,
      serverPublicKey,
      ...(routes.length > 0 && { routes }),
      ...(ca && { tlsCa: resolve(ca) }),
      ...((values.name !== undefined || LABEL.test(name)) && { name }),
    };
    VpnConfig.validateClientConfig(config);
    await claimFile(file, values.force, () => VpnConfig.saveToFile(file, config));

    const here = commandLine(['smartvpn', 'up', file], { root: true });
    if (values.json) {
      stdout.write(`${JSON.stringify({ file: resolve(file), serverUrl, next: { here } })}\n`);
      return;
    }
    const into = routes.length > 0 ? routes.join(', ') : "the VPN's own network";
    stdout.write(`${file} is written: ${serverUrl}, with ${into} in the tunnel.\n\nConnect:\n  ${here}\n`);
  },
};
