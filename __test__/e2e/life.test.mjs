/** How VPNs live in a Node process, and how they end with it: in workers, in scopes, in the middle of anything. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { ROOT } from '../../scripts/run.mjs';
import { clientConfig, LONG, requires, serverConfig, TUNNEL, useSite, WEB } from './support/site.mjs';
import { eventually, interfaceWith, ping, reaches } from './support/traffic.mjs';

const FULL_TUNNEL = { routes: ['0.0.0.0/0'] };

/** A VPN in passing changes the host, and keeps no journal beside the one of the agent's own. */
const IN_PASSING = { routes: [], tunName: 'passing' };

describe('worker threads', { skip: requires() }, () => {
  const site = useSite();

  it('that are terminated 50 times leave the main thread’s tunnel and nothing of their own', async () => {
    await site.serve();
    const { agent } = await site.connect();
    const found = await site.client.snapshot();
    const pinging = ping(site.client, WEB.address, { count: 200, intervalSecs: 0.05 });
    const config = clientConfig(IN_PASSING);
    await agent.run(useWorkers, 4, config, join(ROOT, 'index.js'));
    const settled = await agent.run(census);
    const done = await agent.run(useWorkers, 50, config, join(ROOT, 'index.js'));
    assert.equal(done.connected, 25);
    assertSteady(settled, await agent.run(census));

    const { sent, received, output } = await pinging;
    assert.equal(received, sent, output);
    assert.deepEqual(await site.client.snapshot(), found);
  });

  it('that end by themselves take their VPNs down', async () => {
    await site.serve();
    const agent = await site.agent(site.client);
    const code = await agent.run(
      async ({ load }, config, library) => {
        const { Worker } = await load('node:worker_threads');
        const worker = new Worker(
          `const { workerData: { config, library } } = require('node:worker_threads');
           const { VpnClient } = require(library);
           (async () => {
             const client = new VpnClient({ config });
             await client.start();
             await client.connect();
             process.exit(3);
           })();`,
          { eval: true, workerData: { config, library } },
        );
        return new Promise((resolve) => worker.on('exit', resolve));
      },
      clientConfig(IN_PASSING),
      join(ROOT, 'index.js'),
    );
    assert.equal(code, 3);
    await site.assertAsFound(site.client);
  });
});

describe('in the middle of it, the host is as found', { skip: requires() }, () => {
  const site = useSite();

  /** Moments of a start or a connect, in milliseconds after its beginning; both are done at the last. */
  const MOMENTS = [0, 1, 2, 4, 7, 11, 16, 22, 30, 40, 60, 100];

  const endings = {
    'process.exit()': { code: 7, signal: null },
    'an uncaught throw': { code: 1, signal: null },
    'Ctrl-C': { code: null, signal: 'SIGINT' },
    'Ctrl-C, twice': { code: null, signal: 'SIGINT' },
  };

  for (const [name, expected] of Object.entries(endings)) {
    it(`after ${name} in a connect()`, async () => {
      await site.serve();
      const options = { method: 'connect', config: clientConfig(FULL_TUNNEL) };
      for (const delayMs of MOMENTS) {
        const ended = await endAfter(delayMs, name, site.client, 'VpnClient', options);
        assert.deepEqual(ended, expected, `after ${delayMs} ms`);
        await site.assertAsFound(site.client);
      }
    });

    it(`after ${name} in a start()`, async () => {
      const options = { method: 'start', config: serverConfig({ subnet6: TUNNEL.subnet6 }) };
      for (const delayMs of MOMENTS) {
        const ended = await endAfter(delayMs, name, site.server, 'VpnServer', options);
        assert.deepEqual(ended, expected, `after ${delayMs} ms`);
        await site.assertAsFound(site.server);
      }
    });
  }

  /** Begins a call in a process of its own, and ends that `delayMs` later. */
  async function endAfter(delayMs, how, host, className, options) {
    // A session of its own: Ctrl-C is sent to all that a terminal's foreground has.
    const agent = await site.agent(host, { wrap: ['setsid'] });
    await agent.run(begin, className);
    agent.run(callAndEnd, how, delayMs, options).catch(() => {});
    if (how.startsWith('Ctrl-C')) {
      await eventually(() => assert.match(agent.stdout, /called/));
      await sleep(delayMs);
      process.kill(-agent.pid, 'SIGINT');
      if (how.endsWith('twice')) {
        await sleep(3);
        if (agent.running) process.kill(-agent.pid, 'SIGINT');
      }
    }
    return agent.ended;
  }
});

describe('an object that nobody knows any more', { skip: requires() }, () => {
  const site = useSite();

  it('keeps its tunnel, and its process its duty to take it down', async () => {
    await site.serve();
    const agent = await site.agent(site.client);
    await agent.run(async ({ load }, config) => {
      const { VpnClient } = await load();
      const client = new VpnClient({ config });
      await client.start();
      await client.connect();
    }, clientConfig(FULL_TUNNEL));
    await agent.run(collectGarbage);
    assert.equal(await reaches(site.client, WEB.address), true);
    assert.deepEqual(await agent.kill('SIGTERM'), { code: null, signal: 'SIGTERM' }, agent.stderr);
    await site.assertAsFound(site.client);
  });

  it('is collected after its tunnel has ended, with its threads and descriptors', async () => {
    const server = await site.serve();
    const agent = await site.agent(site.client);
    const connect = async () => {
      await agent.run(async ({ load }, config) => {
        const { VpnClient } = await load();
        const client = new VpnClient({ config });
        globalThis.collected ??= 0;
        globalThis.registry ??= new FinalizationRegistry(() => globalThis.collected++);
        globalThis.registry.register(client);
        await client.start();
        await client.connect();
      }, clientConfig());
      const [{ clientId }] = await eventually(async () => {
        const clients = await server.vpn.listClients();
        assert.equal(clients.length, 1);
        return clients;
      });
      await server.vpn.disconnectClient(clientId);
      await eventually(async () => assert.equal((await server.vpn.listClients()).length, 0));
      // The client is told of it a moment later; its routes would be in the next one's way.
      await eventually(async () => {
        const { stdout } = await site.client.exec(['ip', '-o', 'link']);
        assert.doesNotMatch(stdout, /smartvpn\d/);
      });
    };
    const countWhen = (collected) =>
      eventually(async () => {
        await agent.run(collectGarbage);
        assert.equal(await agent.run(() => globalThis.collected), collected);
        return agent.run(census);
      });
    await connect();
    const first = await countWhen(1);
    for (let round = 0; round < 10; round++) await connect();
    assertSteady(first, await countWhen(11));
    await site.assertAsFound(site.client);
  });
});

const TSC = join(ROOT, 'node_modules/typescript/bin/tsc');
const noCompiler = () => !existsSync(TSC) && 'The development tools are missing: `npm ci`.';

describe('the end of a scope', { skip: requires() || noCompiler() }, () => {
  const site = useSite();
  let folder;

  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'smartvpn-scope-'));
    mkdirSync(join(folder, 'node_modules'));
    symlinkSync(ROOT, join(folder, 'node_modules/smartvpn'));
    for (const name of ['@types', 'undici-types']) {
      symlinkSync(join(ROOT, 'node_modules', name), join(folder, 'node_modules', name));
    }
  });
  after(() => rmSync(folder, { recursive: true }));

  /** Compiles a program for the oldest Node, runs it on a host and resolves with what it printed. */
  async function run(host, program) {
    const options = [
      '--target', 'es2022', '--lib', 'es2022,esnext.disposable',
      '--module', 'nodenext', '--types', 'node', '--strict',
    ]; // prettier-ignore
    const file = join(folder, 'program.mts');
    writeFileSync(file, program);
    const { status, stdout } = spawnSync(process.execPath, [TSC, ...options, file], {
      cwd: folder,
      encoding: 'utf8',
    });
    assert.equal(status, 0, stdout);
    return (await host.exec([process.execPath, join(folder, 'program.mjs')])).stdout;
  }

  it('closes what `await using` holds, in reverse order, also after a throw', async () => {
    await site.serve();
    const output = await run(
      site.client,
      `import { networkInterfaces } from 'node:os';
       import { VpnClient, type IVpnClientConfig } from 'smartvpn';
       const config: IVpnClientConfig = ${JSON.stringify(clientConfig({ tunName: 'scoped' }))};
       const tunnel = () => 'scoped' in networkInterfaces();
       async function scope(fail: boolean) {
         await using client = new VpnClient({ config });
         client.on('exit', ({ code }) => console.log('exit', code, tunnel()));
         await client.start();
         await client.connect();
         console.log('in', tunnel());
         if (fail) throw new Error('on purpose');
       }
       await scope(false);
       console.log('out', tunnel());
       await scope(true).catch((error) => console.log(error.message, tunnel()));`,
    );
    assert.deepEqual(output.trim().split('\n'), [
      'in true',
      'exit 0 false',
      'out false',
      'in true',
      'exit 0 false',
      'on purpose false',
    ]);
  });

  it('closes by hand with Symbol.asyncDispose', async () => {
    const { agent, vpn } = await site.serve();
    const ended = await agent.run(async ({ vpns }) => {
      const [server] = vpns.values();
      await server[Symbol.asyncDispose]();
      return server.running;
    });
    assert.equal(ended, false);
    assert.deepEqual(
      vpn.seen('exit').map(({ code }) => code),
      [0],
    );
    assert.equal(await interfaceWith(site.server, TUNNEL.server), undefined);
    await site.assertAsFound(site.server);
  });
});

describe('hundreds of starts and stops', { skip: requires() }, () => {
  const site = useSite();

  const ROUNDS = LONG ? 1000 : 300;
  /** Of a run, so that none outlasts the time a call to an agent may take. */
  const BATCH = 100;
  /** After so many, what is made once has been made, and the allocator has found its size. */
  const WARM_UP = 300;
  const GROWTH_BYTES = (LONG ? 5 : 3) * 2 ** 20;

  /** What is started, and where; `prepare` has ready what it needs. */
  const kinds = {
    'of a client': { task: startClients, config: () => undefined, host: () => site.client },
    'of a server': {
      task: serve,
      config: () => serverConfig({ enableNat: false }),
      host: () => site.server,
    },
    ...(LONG && {
      'of a server with NAT': { task: serve, config: serverConfig, host: () => site.server },
      'of a client’s tunnel': {
        task: connectAndClose,
        config: clientConfig,
        host: () => site.client,
        prepare: () => site.serve(),
      },
    }),
  };

  for (const [name, { task, config, host, prepare }] of Object.entries(kinds)) {
    it(`${name} take no memory, thread or descriptor`, async (t) => {
      await prepare?.();
      const agent = await site.agent(host());
      const repeat = async (rounds) => {
        for (let done = 0; done < rounds; done += BATCH) await agent.run(task, BATCH, config());
        await agent.run(collectGarbage);
        const rss = await agent.run(() => process.memoryUsage.rss());
        return { ...(await agent.run(census)), rss };
      };
      const warm = await repeat(WARM_UP);
      const done = await repeat(ROUNDS);
      assertSteady(warm, done);
      const growth = done.rss - warm.rss;
      t.diagnostic(`${ROUNDS} rounds: ${(growth / 2 ** 20).toFixed(1)} MiB more`);
      assert.ok(growth < GROWTH_BYTES, `grew by ${growth} bytes, from ${warm.rss}`);
    });
  }
});

/** The runtime keeps threads for work that blocks, and lets them go when they have been idle for a while. */
const SPARE_THREADS = 5;

/** Asserts that nothing has been kept, where each of many rounds would have left something. */
function assertSteady(then, now) {
  assert.equal(now.descriptors, then.descriptors, 'descriptors');
  assert.ok(now.threads <= then.threads + SPARE_THREADS, `${now.threads} threads, ${then.threads} before`);
}

// What follows runs in agents, and sees nothing of its surroundings here.

async function useWorkers({ load }, rounds, config, library) {
  const { Worker } = await load('node:worker_threads');
  const source = `
    const { parentPort, workerData: { config, library, wait } } = require('node:worker_threads');
    const { VpnClient, VpnServer } = require(library);
    (async () => {
      const server = new VpnServer();
      await server.start();
      const client = new VpnClient({ config });
      await client.start();
      const connecting = client.connect();
      connecting.catch(({ message }) => parentPort.postMessage(message));
      if (wait) await connecting;
      parentPort.postMessage('ready');
    })();`;
  const done = { connected: 0 };
  for (let round = 0; round < rounds; round++) {
    // Every other one is terminated in the middle of its connect().
    const wait = round % 2 === 0;
    const worker = new Worker(source, { eval: true, workerData: { config, library, wait } });
    const said = await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    if (said !== 'ready') throw new Error(said);
    if (wait) done.connected++;
    await worker.terminate();
  }
  return done;
}

async function begin({ load }, className) {
  const vpn = new (await load())[className]();
  await vpn.start();
  globalThis.vpn = vpn;
}

async function callAndEnd(_, how, delayMs, { method, config }) {
  // The end of the process is what is tested, whatever the call comes to.
  globalThis.vpn[method](config).catch(() => {});
  process.stdout.write('called');
  if (how.startsWith('Ctrl-C')) return;
  setTimeout(() => {
    if (how === 'process.exit()') process.exit(7);
    throw new Error('on purpose');
  }, delayMs);
}

async function collectGarbage({ load }) {
  const { setFlagsFromString } = await load('node:v8');
  const { runInNewContext } = await load('node:vm');
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc');
  for (let round = 0; round < 10; round++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    gc();
  }
}

/** Threads and descriptors of the process. */
async function census({ load }) {
  const { readdirSync } = await load('node:fs');
  const count = (folder) => readdirSync(`/proc/self/${folder}`).length;
  return { threads: count('task'), descriptors: count('fd') };
}

async function startClients({ load }, rounds) {
  const { VpnClient } = await load();
  for (let round = 0; round < rounds; round++) {
    const client = new VpnClient();
    await client.start();
    await client.close();
  }
}

async function connectAndClose({ load }, rounds, config) {
  const { VpnClient } = await load();
  for (let round = 0; round < rounds; round++) {
    const client = new VpnClient({ config });
    await client.start();
    await client.connect();
    await client.close();
  }
}

async function serve({ load }, rounds, config) {
  const { VpnServer } = await load();
  for (let round = 0; round < rounds; round++) {
    const server = new VpnServer();
    await server.start(config);
    await server.close();
  }
}
