/** The daemon, run from configuration files: the same engine without Node. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { missingTools } from '../../scripts/tools.mjs';
import { Controller, DAEMON, Daemon, folder, notBuilt } from './support/daemon.mjs';
import { clientConfig, requires, serverConfig, TUNNEL, useSite, WEB } from './support/site.mjs';
import { eventually, interfaceWith, reaches } from './support/traffic.mjs';

describe('the daemon', { skip: requires() || notBuilt }, () => {
  const site = useSite();

  it('serves and connects from files, and leaves the hosts as found', async (t) => {
    const server = await run(t, site.server, 'server', serverConfig());
    const client = await run(t, site.client, 'client', clientConfig({ routes: ['0.0.0.0/0'] }));
    await eventually(async () => assert.equal(await reaches(site.client, TUNNEL.server), true));
    assert.equal(await reaches(site.client, WEB.address), true);
    assert.deepEqual(await client.end('SIGTERM'), [0, null], client.output);
    assert.deepEqual(await server.end('SIGINT'), [0, null], server.output);
    await site.assertAsFound();
  });

  it('tries again from the first attempt on', async (t) => {
    const client = await run(t, site.client, 'client', clientConfig({ reconnect: { maxDelayMs: 300 } }));
    await eventually(() => assert.match(client.output, /refuses connections/));
    await site.serve();
    await eventually(async () => assert.equal(await reaches(site.client, WEB.address), true));
    assert.deepEqual(await client.end('SIGHUP'), [0, null], client.output);
  });

  it('is undone at the next start when it was killed', async (t) => {
    const first = await run(t, site.server, 'server', serverConfig());
    const client = await eventually(() => site.connect());
    assert.equal(await reaches(site.client, WEB.address), true);
    await client.agent.close();
    await first.end('SIGKILL');
    const second = await run(t, site.server, 'server', serverConfig());
    await eventually(async () => (await site.connect()).agent.close());
    await second.end('SIGTERM');
    await site.assertAsFound();
  });

  it('leaves the host as found whenever it is told to end', async (t) => {
    for (let delay = 0; delay <= 120; delay += 10) {
      const server = await run(t, site.server, 'server', serverConfig());
      await server.hears();
      await sleep(delay);
      assert.deepEqual(await server.end('SIGTERM'), [0, null], server.output);
      await site.assertAsFound(site.server);
    }
  });

  it('says what is wrong with a file and ends', async (t) => {
    const server = await run(t, site.server, 'server', serverConfig({ subnet: '10.8.0.0/31' }));
    assert.deepEqual(await server.ended, [1, null]);
    const { error } = JSON.parse(server.stdout);
    assert.deepEqual([error.code, error.path], ['invalid-config', 'subnet']);
    assert.match(server.stderr, /subnet/);
  });

  it('ends with an error when its VPN fails for good', async (t) => {
    const socket = join(folder(t), 'socket');
    const server = await run(t, site.server, 'server', serverConfig(), '--management-socket', socket);
    await server.listens(socket);
    const client = await run(t, site.client, 'client', clientConfig());
    const controller = await Controller.connect(socket);
    const { clientId } = await controller.event('client-connected');
    await controller.result('disconnectClient', { id: clientId });
    assert.deepEqual(await client.ended, [1, null]);
    assert.equal(JSON.parse(client.stdout).error.code, 'kicked');
    await site.assertAsFound(site.client);

    const { ifname } = await interfaceWith(site.server, TUNNEL.server);
    await site.server.exec(['ip', 'link', 'delete', ifname]);
    assert.equal((await controller.event('exit')).code, 'tun-unavailable');
    assert.deepEqual(await server.ended, [1, null]);
    assert.equal(JSON.parse(server.stdout).error.code, 'tun-unavailable');
    await site.assertAsFound();
  });

  it('leaves the VPN of its file to controllers', async (t) => {
    await site.serve();
    const socket = join(folder(t), 'socket');
    const client = await run(t, site.client, 'client', clientConfig(), '--management-socket', socket);
    await client.listens(socket);
    const controller = await Controller.connect(socket);
    await eventually(async () => assert.equal((await controller.result('getStatus')).state, 'connected'));
    await controller.result('disconnect');
    const refused = await controller.call('connect', clientConfig({ serverUrl: 'ws://127.0.0.1:9/' }));
    assert.equal(refused.error.code, 'connection-refused');
    await controller.result('connect', clientConfig());
    assert.equal(await reaches(site.client, WEB.address), true);
    assert.deepEqual(await client.end('SIGTERM'), [0, null], client.output);
    await site.assertAsFound(site.client);
  });

  it('is ready when it does what it is for', { skip: missingTools(['socat']) ?? false }, async (t) => {
    const [told, , env] = await serviceManager(t);
    const client = await run(t, site.client, 'client', clientConfig(), { env });
    await eventually(() => assert.match(told(), /READY=1.*STATUS=reconnecting: .* refuses/s));
    await client.end();

    const [serverTold, socket, serverEnv] = await serviceManager(t);
    const options = { env: serverEnv };
    const server = await run(
      t,
      site.server,
      'server',
      serverConfig(),
      '--management-socket',
      socket,
      options,
    );
    await eventually(() => assert.match(serverTold(), /READY=1/), 20_000);
    const controller = await Controller.connect(socket);
    assert.equal((await controller.result('getStatus')).state, 'connected');
    await eventually(() => assert.match(serverTold(), /STATUS=connected, 10\.8\.0\.1, .*(WATCHDOG=1.*){3}/s));
    assert.deepEqual(await server.end(), [0, null], server.output);
    assert.match(serverTold(), /STOPPING=1/);
  });

  it('makes key pairs', async () => {
    const { stdout } = await site.server.exec([DAEMON, '--generate-keypair']);
    const { publicKey, privateKey } = JSON.parse(stdout);
    assert.deepEqual(
      [publicKey, privateKey].map((key) => Buffer.from(key, 'base64').length),
      [32, 32],
    );
  });
});

/** Starts the daemon with a configuration file; options of {@link Daemon} may come last. */
async function run(t, host, mode, config, ...args) {
  const options = typeof args.at(-1) === 'object' ? args.pop() : {};
  const file = `/run/${mode}.json`;
  await host.exec(['sh', '-c', `umask 077; cat > ${file}`], { input: JSON.stringify(config) });
  return new Daemon(t, ['--config', file, '--mode', mode, ...args], { host, ...options });
}

/**
 * A stand-in for the service manager: what it was told so far, a path for a management socket, and
 * the environment of the service.
 */
async function serviceManager(t) {
  const path = folder(t);
  const notify = join(path, 'notify');
  const child = spawn('socat', ['-u', `UNIX-RECV:${notify}`, 'STDOUT'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(async () => {
    child.kill();
    await once(child, 'exit');
  });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (more) => (text += more));
  await eventually(() => assert.ok(existsSync(notify)));
  const env = { NOTIFY_SOCKET: notify, WATCHDOG_USEC: '400000' };
  return [() => text, join(path, 'socket'), env];
}
