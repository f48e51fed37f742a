/** What the end-to-end tests share: hosts, a server and clients on them, and the proof that nothing stays behind. */
import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { after, afterEach, before, beforeEach } from 'node:test';

import platform from '../../../lib/platform.js';
import { createAuthority } from '../../../scripts/certificates.mjs';
import { Lab, STATE_DIR } from '../../../scripts/lab.mjs';
import { differences } from '../../../scripts/lab-snapshot.mjs';
import { openSite, SERVER, WEB } from '../../../scripts/lab-site.mjs';
import { missingTools } from '../../../scripts/tools.mjs';

export { SERVER, STATE_DIR, WEB };

/** Runs that take minutes instead of seconds are asked for by name. */
export const LONG = process.env.SMARTVPN_LONG === '1';

export const PORT = 8443;
export const TUNNEL = { subnet: '10.8.0.0/24', server: '10.8.0.1', subnet6: 'fd08::/64', server6: 'fd08::1' };

export const authority = createAuthority();
const certificate = authority.issue([SERVER.address, SERVER.address6, 'vpn.test']);
const keys = keypair();

/**
 * For `skip`: why a test cannot run here, or `false`.
 *
 * @param {...string} tools besides `nft` and `ping`
 */
export function requires(...tools) {
  return Lab.unavailable() ?? missingTools(['nft', 'ping', ...tools]) ?? false;
}

/** For `skip`: why no daemon can be tried here, or `false`. */
export function missingDaemon() {
  try {
    platform.findDaemon();
    return false;
  } catch (error) {
    return error.message;
  }
}

/** A static key pair of a server, in the API's form. */
export function keypair() {
  const { x, d } = generateKeyPairSync('x25519').privateKey.export({ format: 'jwk' });
  return { publicKey: toBase64(x), privateKey: toBase64(d) };
}

function toBase64(base64url) {
  return Buffer.from(base64url, 'base64url').toString('base64');
}

/**
 * Gives a suite a site of its own. After each test, what the test started is closed in good order,
 * and every host must be as the test found it. Processes that a `before` hook started live on until
 * the end of the suite.
 *
 * @param {{ clients?: number, transport?: string }} [options] `transport` is how the VPNs reach their engines
 */
export function useSite({ transport, ...options } = {}) {
  const fixture = new Fixture(transport);
  before(() => fixture.open(options));
  beforeEach(() => fixture.begin());
  afterEach(() => fixture.end());
  after(() => fixture.close());
  return fixture;
}

class Fixture {
  /** @type {import('../../../scripts/lab.mjs').Host} */
  server;
  /** @type {import('../../../scripts/lab.mjs').Host} */
  web;
  /** @type {import('../../../scripts/lab.mjs').Host} */
  internet;
  /** @type {import('../../../scripts/lab.mjs').Host[]} */
  clients;

  #lab;
  #transport;
  #agents = [];
  #older = [];
  #found;
  #first;

  constructor(transport) {
    this.#transport = transport;
  }

  /** The first client host. */
  get client() {
    return this.clients[0];
  }

  /** Starts a Node process on a host. */
  async agent(host, options) {
    const agent = await host.agent({ transport: this.#transport, ...options });
    this.#agents.push(agent);
    return agent;
  }

  /**
   * Starts a server, on the server host unless told otherwise.
   *
   * @returns {Promise<{ agent: Agent, vpn: RemoteVpn, config: object }>}
   */
  async serve(config, { host = this.server, agent } = {}) {
    agent ??= await this.agent(host);
    const vpn = await agent.server();
    const settings = serverConfig(config);
    await vpn.start(settings);
    return { agent, vpn, config: settings };
  }

  /**
   * Connects a client, on the first client host unless told otherwise.
   *
   * @returns {Promise<{ agent: Agent, vpn: RemoteVpn, config: object, assignedIp: string, assignedIp6?: string }>}
   */
  async connect(config, { host = this.client, agent } = {}) {
    agent ??= await this.agent(host);
    const vpn = await agent.startedClient();
    const settings = clientConfig(config);
    const assigned = await vpn.connect(settings);
    return { agent, vpn, config: settings, ...assigned };
  }

  /**
   * Takes a running program over, which is then closed as the agents are.
   *
   * @param {{ running: boolean, close(): Promise<{ code: number | null, signal: string | null }>, stderr: string }} program
   */
  adopt(program) {
    this.#agents.push(program);
    return program;
  }

  /** Joins two hosts by a further cable, which whoever adds it takes away again. */
  cable(a, b) {
    return this.#lab.cable(a, b);
  }

  /** Starts the public host's HTTP and DNS servers. */
  async serveWeb() {
    const agent = await this.agent(this.web);
    await agent.run(async ({ load }, options) => (await load('./lab-web.mjs')).serveWeb(options), WEB);
    return agent;
  }

  /** Asserts that the hosts, all unless given, are as the current test found them. */
  async assertAsFound(...hosts) {
    await this.#compare(this.#found, hosts.length > 0 ? hosts : this.#hosts);
  }

  async open(options) {
    const { lab, ...hosts } = await openSite(options);
    this.#lab = lab;
    Object.assign(this, hosts);
    this.#first = await this.#snapshot();
  }

  async begin() {
    this.#older.push(...this.#agents.splice(0));
    // No test finds the sessions that another one left.
    if (this.#older.length === 0)
      await this.server.exec(['rm', '-rf', `${STATE_DIR}/leases`, `${STATE_DIR}/clients`]);
    this.#found = await this.#snapshot();
  }

  async end() {
    await closeAll(this.#agents.splice(0));
    await this.assertAsFound();
  }

  async close() {
    try {
      await closeAll([...this.#older, ...this.#agents]);
      await this.#compare(this.#first, this.#hosts);
    } finally {
      await this.#lab?.close();
    }
  }

  get #hosts() {
    return [this.server, this.web, ...this.clients];
  }

  async #snapshot() {
    return new Map(await Promise.all(this.#hosts.map(async (host) => [host, await host.snapshot()])));
  }

  async #compare(found, hosts) {
    const now = await this.#snapshot();
    const changes = hosts.flatMap((host) =>
      differences(found.get(host), now.get(host)).map((line) => `${host.name}: ${line}`),
    );
    assert.ok(changes.length === 0, `the hosts are not as they were found:\n${changes.join('\n')}`);
  }
}

/** Clients first, so that they take leave; each must end by itself, without a crash. */
async function closeAll(agents) {
  for (const agent of agents.toReversed()) {
    const ranUntilNow = agent.running;
    const { code, signal } = await agent.close();
    if (ranUntilNow) assert.deepEqual({ code, signal }, { code: 0, signal: null }, agent.stderr);
  }
}

/** A server's configuration: wss with NAT on the usual address, but for what is given. */
export function serverConfig(config) {
  return {
    listenAddr: `${SERVER.address}:${PORT}`,
    ...keys,
    subnet: TUNNEL.subnet,
    tlsCert: certificate.certificate,
    tlsKey: certificate.key,
    enableNat: true,
    stateDir: STATE_DIR,
    ...config,
  };
}

/** The configuration of a client of that server, with the public host's network behind it. */
export function clientConfig(config) {
  return {
    serverUrl: `wss://${SERVER.address}:${PORT}/`,
    serverPublicKey: keys.publicKey,
    tlsCa: authority.certificate,
    routes: [WEB.network],
    stateDir: STATE_DIR,
    ...config,
  };
}
