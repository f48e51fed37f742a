/** The daemon, run from configuration files: the same engine without Node. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { clientConfig, requires, serverConfig, TUNNEL, useSite, WEB } from './support/site.mjs';
import { eventually, reaches } from './support/traffic.mjs';

const DAEMON = fileURLToPath(new URL('../../npm/linux-x64-gnu/bin/smartvpn_daemon', import.meta.url));
const missing = !existsSync(DAEMON) && 'The daemon is not built: `npm run build`.';

describe('the daemon', { skip: requires() || missing }, () => {
  const site = useSite();

  it('serves and connects from files, and leaves the hosts as found', async () => {
    const server = await daemon(site.server, 'server', serverConfig());
    const client = await daemon(site.client, 'client', clientConfig({ routes: ['0.0.0.0/0'] }));
    await eventually(async () => assert.equal(await reaches(site.client, TUNNEL.server), true));
    assert.equal(await reaches(site.client, WEB.address), true);
    assert.deepEqual(await client.end('SIGTERM'), [0, null], client.output());
    assert.deepEqual(await server.end('SIGINT'), [0, null], server.output());
    await site.assertAsFound();
  });

  it('tries again from the first attempt on', async () => {
    const client = await daemon(site.client, 'client', clientConfig({ reconnect: { maxDelayMs: 300 } }));
    await eventually(() => assert.match(client.output(), /refuses connections/));
    await site.serve();
    await eventually(async () => assert.equal(await reaches(site.client, WEB.address), true));
    assert.deepEqual(await client.end('SIGTERM'), [0, null], client.output());
  });

  it('is undone at the next start when it was killed', async () => {
    const first = await daemon(site.server, 'server', serverConfig());
    const client = await eventually(() => site.connect());
    assert.equal(await reaches(site.client, WEB.address), true);
    await client.agent.close();
    await first.end('SIGKILL');
    const second = await daemon(site.server, 'server', serverConfig());
    await eventually(async () => (await site.connect()).agent.close());
    await second.end('SIGTERM');
    await site.assertAsFound();
  });

  it('says what is wrong with a file and ends', async () => {
    const { ended, output } = await daemon(site.server, 'server', serverConfig({ subnet: '10.8.0.0/31' }));
    const [code] = await ended;
    assert.equal(code, 1);
    assert.match(output(), /invalid-config/);
    assert.match(output(), /subnet/);
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

/** Starts the daemon with a configuration file. */
async function daemon(host, mode, config) {
  const file = `/run/${mode}.json`;
  await host.exec(['sh', '-c', `umask 077; cat > ${file}`], { input: JSON.stringify(config) });
  const child = host.spawn([DAEMON, '--config', file, '--mode', mode], { stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (more) => (text += more));
  const ended = once(child, 'close');
  return {
    ended,
    output: () => text,
    end: (signal) => {
      child.kill(signal);
      return ended;
    },
  };
}
