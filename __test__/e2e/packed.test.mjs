/** The README's quick start, with the packages as npm installs them, and packets through its tunnel. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';

import { pack } from '../../scripts/pack.mjs';
import readme from '../support/readme.js';
import { Registry } from '../support/registry.mjs';
import { requires, SERVER, TUNNEL, useSite } from './support/site.mjs';
import { eventually, ping } from './support/traffic.mjs';

/** How long a program may take to say what it is waited for. */
const SAY_TIMEOUT_MS = 20_000;

/** How the kernel lists the quick start's server. */
const LISTENING = `:${(8443).toString(16).toUpperCase()} 00000000:0000 0A `;

const { PROGRAMS, toCommonJs } = readme;
const QUICK_START = ['keys.mjs', 'server.mjs', 'client.mjs'];

describe('the packages, installed from a registry', { skip: requires() }, () => {
  const site = useSite();
  let project;

  before(async () => {
    project = mkdtempSync(join(realpathSync(tmpdir()), 'smartvpn-packed-'));
    const { main, platforms } = await pack({ out: join(project, 'tarballs') });
    const registry = await Registry.open([main, ...Object.values(platforms)]);
    try {
      await registry.npm(project, 'install', 'smartvpn');
    } finally {
      registry.close();
    }
    for (const name of QUICK_START) {
      writeFileSync(join(project, name), PROGRAMS[name]);
      writeFileSync(join(project, name.replace('.mjs', '.cjs')), toCommonJs(PROGRAMS[name]));
    }
    // The journals of a VPN without `stateDir` must not get among those of this machine.
    for (const host of [site.server, site.client]) await host.sh('mount -t tmpfs lab /var/lib');
  });
  beforeEach(() => rmSync(join(project, 'server.json'), { force: true }));
  after(() => rmSync(project, { recursive: true }));

  /** Starts a program of the project on a host. */
  function start(host, ...argv) {
    const inProject = ['env', `--chdir=${project}`, ...argv];
    return new Program(host.spawn(inProject, { stdio: ['ignore', 'pipe', 'pipe'] }));
  }

  const startNode = (host, ...args) => start(host, process.execPath, ...args);

  /** Connects the quick start's client and sends packets to the server's end of the tunnel. */
  async function useClient(file, publicKey) {
    const client = startNode(site.client, file, `ws://${SERVER.address}:8443/`, publicKey);
    await client.says(/This machine is 10\.8\.0\.2 in the tunnel/);
    const { received, output } = await ping(site.client, TUNNEL.server, { count: 5 });
    assert.equal(received, 5, output);
    return client;
  }

  for (const [how, extension] of [
    ['import', 'mjs'],
    ['require()', 'cjs'],
  ]) {
    it(`run the quick start by ${how}`, async () => {
      const keys = startNode(site.server, `keys.${extension}`);
      assert.deepEqual(await keys.ended, { code: 0, signal: null }, keys.output);
      const publicKey = keys.output.trim();
      assert.equal(statSync(join(project, 'server.json')).mode & 0o777, 0o600);

      const server = startNode(site.server, `server.${extension}`);
      await server.says(/Serving on 0\.0\.0\.0:8443, 10\.8\.0\.1 in the tunnel/);
      const client = await useClient(`client.${extension}`, publicKey);
      await server.says(/ is 10\.8\.0\.2/);

      assert.deepEqual(await client.kill('SIGINT'), { code: null, signal: 'SIGINT' }, client.output);
      await server.says(/has left: client-disconnect/);
      assert.deepEqual(await server.kill('SIGINT'), { code: null, signal: 'SIGINT' }, server.output);
      await site.assertAsFound();
    });
  }

  it('have the daemon, which serves the same client', async () => {
    const keys = startNode(site.server, 'keys.mjs');
    await keys.ended;
    const { publicKey } = JSON.parse(readFileSync(join(project, 'server.json'), 'utf8'));
    const find = startNode(
      site.server,
      '-p',
      "require('./node_modules/smartvpn/lib/platform.js').findDaemon()",
    );
    await find.ended;
    const daemon = find.output.trim();
    assert.ok(daemon.startsWith(join(project, 'node_modules/smartvpn-linux-')), daemon);

    const server = start(site.server, daemon, '--mode', 'server', '--config', 'server.json');
    await eventually(() => site.server.sh(`grep -q '${LISTENING}' /proc/net/tcp`));
    const client = await useClient('client.mjs', publicKey);
    await client.kill('SIGTERM');
    assert.deepEqual(await server.kill('SIGTERM'), { code: 0, signal: null }, server.output);
  });
});

/** A running program and what it has said. */
class Program {
  output = '';
  /** @type {Promise<{ code: number | null, signal: string | null }>} */
  ended;

  #child;

  constructor(child) {
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => (this.output += text));
    }
    this.ended = once(child, 'close').then(([code, signal]) => ({ code, signal }));
  }

  /** Resolves when the program has said it. */
  async says(words) {
    const late = AbortSignal.timeout(SAY_TIMEOUT_MS);
    while (!words.test(this.output)) {
      const end = await Promise.race([
        this.ended,
        once(this.#child.stdout, 'data', { signal: late }).catch(() => 'late'),
        once(this.#child.stderr, 'data', { signal: late }).catch(() => 'late'),
      ]);
      if (end === 'late' || (end.code !== undefined && !words.test(this.output))) {
        throw new Error(`The program did not say ${words}; it said:\n${this.output}`);
      }
    }
  }

  kill(signal) {
    this.#child.kill(signal);
    return this.ended;
  }
}
