'use strict';

const { X509Certificate } = require('node:crypto');
const { readFileSync } = require('node:fs');
const { isIP } = require('node:net');
const { resolve } = require('node:path');

const { VpnConfig } = require('../../config.js');
const { VpnError } = require('../../error.js');
const { freePort, isPrivate, joinHostPort, ownAddress, splitHostPort } = require('../addresses.js');
const { UsageError } = require('../exit-codes.js');
const { generateKeypair } = require('../keys.js');
const { claimFile } = require('../new-file.js');
const { commandLine } = require('../shell.js');
const { freeSubnet } = require('../subnet.js');

/** HTTPS, and what needs no root where there is no TLS. */
const PORTS = { tls: 443, plain: 8443 };

/** @type {import('../arguments.js').Command} */
module.exports = {
  name: 'init server',
  summary: "writes a server's configuration, and says what the client types",
  details: `
What is not given is found out: new keys, a private subnet that no route of this host
overlaps, a free port, the address by which clients reach this host.
`,
  positionals: [],
  options: {
    out: { value: 'FILE', help: 'The configuration to write (default: server.json)' },
    listen: { value: 'HOST:PORT', help: 'Where to listen (default: 0.0.0.0:8443, with TLS 0.0.0.0:443)' },
    subnet: { value: 'CIDR', help: "The tunnel's network (default: a free one)" },
    address: { value: 'HOST', help: 'The name or address that clients use' },
    'tls-cert': { value: 'FILE', help: 'The certificate, PEM; without it a proxy may end TLS' },
    'tls-key': { value: 'FILE', help: 'Its key, PEM' },
    'no-nat': { help: 'Clients reach this host only, not what it reaches' },
    force: { help: 'Replace FILE if it is there' },
  },

  async run({ stdout, stderr }, { values }) {
    const file = values.out ?? 'server.json';
    const config = await makeConfig(values);
    VpnConfig.validateServerConfig(config);
    const address = values.address ?? (await findAddress(values));
    const url = clientUrl(config, address);
    await claimFile(file, values.force, () => VpnConfig.saveToFile(file, config));

    const here = commandLine(['smartvpn', 'up', file], { root: true });
    const there = commandLine(['smartvpn', 'init', 'client', url, config.publicKey]);
    if (values.json) {
      const { publicKey, subnet, listenAddr } = config;
      const next = { here, client: there };
      stdout.write(
        `${JSON.stringify({ file: resolve(file), serverUrl: url, publicKey, subnet, listenAddr, next })}\n`,
      );
      return;
    }
    if (isPrivate(address)) {
      stderr.write(`${address} is a private address: from elsewhere, clients need another (--address).\n`);
    }
    const lines = [
      `${file} is written: ${config.subnet} on ${config.listenAddr}, ${describe(config)}.`,
      '',
      'Start the server:',
      `  ${here}`,
      'On the client:',
      `  ${there}`,
    ];
    stdout.write(`${lines.join('\n')}\n`);
  },
};

async function makeConfig(values) {
  const cert = values['tls-cert'];
  const key = values['tls-key'];
  if ((cert === undefined) !== (key === undefined))
    throw new UsageError('--tls-cert and --tls-key go together.');
  const subnet = values.subnet ?? freeSubnet();
  if (subnet === undefined) {
    throw new VpnError(
      'subnet-conflict',
      'Routes of this host use every private network: choose one with --subnet.',
    );
  }
  const host = '0.0.0.0';
  return {
    listenAddr: values.listen ?? joinHostPort(host, await freePort(host, cert ? PORTS.tls : PORTS.plain)),
    subnet,
    ...(await generateKeypair()),
    ...(cert && { tlsCert: resolve(cert), tlsKey: resolve(key) }),
    ...(!values['no-nat'] && { enableNat: true }),
  };
}

/** A name of the certificate, else an address of this host. */
async function findAddress({ 'tls-cert': cert }) {
  const address = (cert && certificateName(cert)) ?? (await ownAddress());
  if (address !== undefined) return address;
  throw new VpnError(
    'unreachable',
    'This host has no address that others could reach: give one with --address.',
  );
}

function certificateName(file) {
  let certificate;
  try {
    certificate = new X509Certificate(readFileSync(file));
  } catch (cause) {
    throw new VpnError('file-error', `${file} could not be read as a certificate: ${cause.message}.`, {
      cause,
    });
  }
  const names = (certificate.subjectAltName ?? '').split(', ');
  const dns = names.find((name) => name.startsWith('DNS:') && !name.includes('*'));
  const ip = names.find((name) => name.startsWith('IP Address:'));
  return (dns ?? ip)?.replace(/^(DNS|IP Address):/, '');
}

function clientUrl({ listenAddr, tlsCert }, address) {
  const scheme = tlsCert ? 'wss' : 'ws';
  const usual = tlsCert ? 443 : 80;
  const { port } = splitHostPort(listenAddr);
  const host = isIP(address) === 6 ? `[${address}]` : address;
  return `${scheme}://${host}${port === usual ? '' : `:${port}`}/`;
}

function describe({ tlsCert, enableNat }) {
  const tls = tlsCert ? 'with TLS' : 'without TLS (packets are sealed all the same)';
  return `${tls}, ${enableNat ? 'clients reach what this host reaches' : 'clients reach this host'}`;
}
