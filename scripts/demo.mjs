/**
 * `npm run demo`: a VPN server and a VPN client, each held by a Node process on a host of its own,
 * and a public host that the client reaches through them. See lab-site.mjs for the network.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';

import { createAuthority } from './certificates.mjs';
import { Lab, LabError, STATE_DIR } from './lab.mjs';
import { differences } from './lab-snapshot.mjs';
import { openSite, SERVER, WEB } from './lab-site.mjs';
import { bytes, milliseconds, rate, Screen, seconds } from './screen.mjs';
import { installTools } from './tools.mjs';

const FILE_BYTES = 100_000_000;
const SUBNET = '10.8.0.0/24';
const GATEWAY = '10.8.0.1';
const PORT = 443;
const PINGS = 20;

const screen = new Screen();
let site;
let interrupted = false;

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, interrupt);

try {
  await prepare();
  screen.title('smartvpn · a VPN that a Node program holds');
  await show();
  screen.end('All of it worked.');
} catch (error) {
  process.exitCode = 1;
  if (!interrupted) {
    await site?.lab.close();
    screen.end(error instanceof LabError ? error.message : (error.stack ?? error));
  }
}

/** Has the system's tools and the project's own parts ready; the build speaks for itself. */
async function prepare() {
  const missing =
    installTools(['ip', 'nft', 'ping'], (sentence) => screen.say(`${sentence} …`)) ?? Lab.unavailable();
  if (missing) throw new LabError(missing);
  const { build } = await import('./build.mjs');
  await build();
}

async function show() {
  const begun = Date.now();
  site = await screen.step(
    'Make three hosts',
    () => openSite(),
    () => 'client, server and a public host, in network namespaces',
  );
  const { server: serverHost, web, clients: [clientHost] } = site; // prettier-ignore
  const hosts = [serverHost, web, clientHost];
  const found = await Promise.all(hosts.map((host) => host.snapshot()));

  const {
    agent: serverAgent,
    vpn: server,
    trust,
  } = await screen.step(
    'Start VpnServer',
    () => startServer(serverHost),
    ({ url }) => `${url} · tunnel ${SUBNET} · NAT`,
  );
  const publicHost = await web.agent();
  await publicHost.run(async ({ load }, options) => (await load('./lab-web.mjs')).serveWeb(options), WEB);

  const { agent: clientAgent, vpn: client } = await screen.step(
    'Connect VpnClient',
    () => connectClient(clientHost, trust),
    ({ assignedIp, elapsedMs }) => `${assignedIp} · in ${milliseconds(elapsedMs)}`,
  );

  await screen.step(
    'Ping through the tunnel',
    (progress) => ping(clientHost, progress),
    ({ received, average, max }) => `${received} of ${PINGS} answered · ${average} ms, at most ${max} ms`,
  );

  // An ordinary program on the client's host: it knows nothing of the VPN.
  const program = await clientHost.agent();
  await screen.step(
    'Fetch a page from the public host',
    () => fetchPage(program),
    (address) => `it saw ${address}, the server’s address`,
  );
  await screen.step(
    'Download 100 MB',
    (progress) => move(program, client, 'bytesReceived', download, progress),
    tellMove,
  );
  await screen.step(
    'Upload 100 MB',
    (progress) => move(program, client, 'bytesSent', upload, progress),
    tellMove,
  );
  await program.close();

  await showTables(server, client);

  screen.heading('The end');
  await screen.step('Kick the client', () => kick(server, client), (code) => `its status says \`${code}\``); // prettier-ignore
  await screen.step('Stop both', () =>
    Promise.all([clientAgent.close(), serverAgent.close()]).then(() => publicHost.close()),
  );
  await screen.step(
    'Compare the hosts with before',
    () => assertAsFound(hosts, found),
    () => 'addresses, routes, firewall, forwarding: as found',
  );
  await screen.step('Remove the hosts', () => site.lab.close(), () => `${seconds(Date.now() - begun)} in all`); // prettier-ignore
}

async function startServer(host) {
  const authority = createAuthority('smartvpn demo authority');
  const { certificate, key } = authority.issue([SERVER.address]);
  const agent = await host.agent();
  const vpn = await agent.server();
  await vpn.start();
  const keys = await vpn.generateKeypair();
  await vpn.start({
    listenAddr: `${SERVER.address}:${PORT}`,
    ...keys,
    subnet: SUBNET,
    tlsCert: certificate,
    tlsKey: key,
    enableNat: true,
    stateDir: STATE_DIR,
  });
  const url = `wss://${SERVER.address}`;
  return {
    agent,
    vpn,
    url,
    trust: { serverUrl: url, serverPublicKey: keys.publicKey, tlsCa: authority.certificate },
  };
}

async function connectClient(host, trust) {
  const agent = await host.agent();
  const vpn = await agent.startedClient();
  const begun = performance.now();
  const { assignedIp } = await vpn.connect({
    ...trust,
    name: 'demo',
    routes: [WEB.network],
    stateDir: STATE_DIR,
  });
  return { agent, vpn, assignedIp, elapsedMs: performance.now() - begun };
}

async function ping(host, progress) {
  const child = host.spawn(['ping', '-n', '-c', `${PINGS}`, '-i', '0.05', '-W', '2', GATEWAY]);
  let output = '';
  for await (const chunk of child.stdout.setEncoding('utf8')) {
    output += chunk;
    const last = output.match(/time=[\d.]+ ms/g)?.at(-1) ?? '';
    progress((output.match(/icmp_seq/g) ?? []).length / PINGS, last.replace('time=', ''));
  }
  const [, received] = /(\d+) received/.exec(output) ?? [0, 0];
  assert.equal(Number(received), PINGS, `pings were lost:\n${output}`);
  const [, average, max] = /= [\d.]+\/([\d.]+)\/([\d.]+)/.exec(output);
  return { received, average, max };
}

async function fetchPage(program) {
  const text = await program.run(async (_, url) => (await fetch(url)).text(), `http://${WEB.address}/`);
  const [, address] = /came from (\S+)\./.exec(text);
  assert.equal(address, SERVER.public, 'the public host must see the server’s address');
  return address;
}

/** Moves the file, and meanwhile shows how far the client's own counter has come. */
async function move(program, client, counter, transfer, progress) {
  const before = (await client.getStatistics())[counter];
  const begun = performance.now();
  const done = new AbortController();
  const watch = async () => {
    while (!done.signal.aborted) {
      const count = (await client.getStatistics())[counter] - before;
      progress(count / FILE_BYTES, rate(count, performance.now() - begun));
      await sleep(100);
    }
  };
  const moved = program.run(transfer, WEB.address, FILE_BYTES).finally(() => done.abort());
  const [result] = await Promise.all([moved, watch()]);
  assert.equal(result.bytes, FILE_BYTES, 'the file must arrive whole');
  assert.equal(result.sha256, result.expected, 'the file must arrive as it was sent');
  return result;
}

function tellMove({ elapsedMs }) {
  return `${rate(FILE_BYTES, elapsedMs)} · ${seconds(elapsedMs)} · sha256 matches`;
}

/** Runs in the program on the client's host. */
async function download({ load }, address, size) {
  const { createHash } = await load('node:crypto');
  const response = await fetch(`http://${address}/random/${size}`);
  const begun = performance.now();
  const hash = createHash('sha256');
  let count = 0;
  for await (const chunk of response.body) {
    hash.update(chunk);
    count += chunk.length;
  }
  const elapsedMs = performance.now() - begun;
  return { bytes: count, sha256: hash.digest('hex'), expected: response.headers.get('x-sha256'), elapsedMs };
}

/** Runs in the program on the client's host. */
async function upload({ load }, address, size) {
  const { request } = await load('node:http');
  const { pipeline } = await load('node:stream/promises');
  const { once } = await load('node:events');
  const { digest, random } = await load('./lab-web.mjs');
  const expected = digest(size);
  const begun = performance.now();
  const outgoing = request({ host: address, method: 'PUT', headers: { 'content-length': size } });
  const answered = once(outgoing, 'response');
  await pipeline(random(size), outgoing);
  const [response] = await answered;
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) text += chunk;
  return { ...JSON.parse(text), expected, elapsedMs: performance.now() - begun };
}

async function showTables(server, client) {
  const clients = await server.listClients();
  assert.equal(clients.length, 1);
  screen.heading('Clients, as the server lists them');
  screen.table(
    ['name', 'address', 'from', 'received', 'sent', 'dropped'],
    clients.map((info) => [
      info.name,
      info.assignedIp,
      info.remoteAddr,
      bytes(info.bytesReceived),
      bytes(info.bytesSent),
      `${info.packetsDropped} packets`,
    ]),
  );

  const [there, here, quality, mtu] = await Promise.all([
    server.getStatistics(),
    client.getStatistics(),
    client.getConnectionQuality(),
    client.getMtuInfo(),
  ]);
  screen.heading('Statistics');
  screen.table(
    ['', 'client', 'server'],
    [
      ['sent', bytes(here.bytesSent), bytes(there.bytesSent)],
      ['received', bytes(here.bytesReceived), bytes(there.bytesReceived)],
      ['packets sent', here.packetsSent, there.packetsSent],
      ['packets received', here.packetsReceived, there.packetsReceived],
      ['packets dropped', here.packetsDropped ?? 0, there.packetsDropped ?? 0],
      ['keepalives', `${here.keepalivesSent} sent`, `${there.keepalivesReceived} received`],
      ['round-trip time', milliseconds(quality.srttMs), ''],
      ['link', quality.linkHealth, ''],
      ['MTU', `${mtu.tunMtu}, overhead ${mtu.overheadBytes}`, ''],
    ],
  );
}

async function kick(server, client) {
  const [{ clientId }] = await server.listClients();
  await server.disconnectClient(clientId);
  const { lastErrorCode } = await client.event('status', ({ state }) => state === 'error');
  assert.equal(lastErrorCode, 'kicked');
  return lastErrorCode;
}

async function assertAsFound(hosts, found) {
  const now = await Promise.all(hosts.map((host) => host.snapshot()));
  const changed = hosts.flatMap((host, index) =>
    differences(found[index], now[index]).map((line) => `${host.name}: ${line}`),
  );
  assert.deepEqual(changed, [], `the hosts are not as found:\n${changed.join('\n')}`);
}

async function interrupt(signal) {
  if (interrupted) return;
  interrupted = true;
  await site?.lab.close();
  screen.end(`Ended by ${signal}; everything is cleaned up.`);
  process.exit(signal === 'SIGINT' ? 130 : 143);
}
