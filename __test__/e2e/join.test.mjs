/** From an invite to a tunnel: what `createInvite()` gives, `VpnClient.join()` and `npx smartvpn` make of it. */
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { describe, it } from 'node:test';

import { assertFails } from './support/assert.mjs';
import { authority, PORT, requires, SERVER, TUNNEL, useSite } from './support/site.mjs';
import { reaches } from './support/traffic.mjs';

const BIN = fileURLToPath(new URL('../../bin/smartvpn.js', import.meta.url));
const FILE = '/run/client.json';

/** The authority of the lab's certificates is trusted by nobody: an invite has to name it. */
const issued = authority.issue([SERVER.address]);
const chain = `${issued.certificate}${authority.certificate}`;
const publicUrl = `wss://${SERVER.address}:${PORT}/`;
const SERVING = { clients: [], publicUrl, tlsCert: chain, tlsKey: issued.key };

describe('an invite', { skip: requires() }, () => {
  const site = useSite({ clients: 2 });
  const [first, second] = [() => site.clients[0], () => site.clients[1]];

  it('makes a client of whoever has it, once', async () => {
    const { vpn: server } = await site.serve(SERVING);
    const { url, id, expiresAt } = await server.createInvite({ name: 'phone' });
    assert.match(url, /^vpn:\/\/10\.90\.0\.2:8443\/#[\w-]{43}\.[\w-]{22}\.[\w-]{43}$/);
    assert.ok(id.length > 0 && Date.parse(expiresAt) > Date.now());

    const config = await join(first(), url, { configPath: FILE });
    assert.equal(config.serverUrl, publicUrl);
    assert.match(config.tlsCa, /^-----BEGIN CERTIFICATE-----\n/);
    assert.equal((await first().exec(['stat', '-c', '%a', FILE])).stdout, '600\n');
    assert.doesNotMatch(JSON.stringify(config), new RegExp(url.split('.').at(-2)));
    const [registered, ...others] = await server.listRegisteredClients();
    assert.deepEqual([registered.name, registered.online, others], ['phone', false, []]);

    const { vpn, agent } = await connect(first(), FILE);
    assert.equal(await reaches(first(), TUNNEL.server), true);
    const [{ clientId }] = await server.listClients();
    assert.equal(clientId, registered.id);
    assert.equal((await server.listRegisteredClients())[0].online, true);

    await assertFails(join(second(), url, { configPath: FILE }), 'unauthorized', 'used up');
    assert.equal((await second().exec(['ls', FILE], { check: false })).code, 2, 'no file is left');
    assert.equal((await server.listRegisteredClients()).length, 1);

    await vpn.close();
    await agent.close();
    await connect(first(), FILE);
    assert.equal(await reaches(first(), TUNNEL.server), true, 'the key is all it needs');
    await first().exec(['rm', FILE]);
  });

  it('is good as often as it says, and each time for another key', async () => {
    const { vpn: server } = await site.serve(SERVING);
    const { url } = await server.createInvite({ uses: 2 });
    await join(first(), url, { name: 'one' });
    await join(second(), url, { name: 'two' });
    const registered = await server.listRegisteredClients();
    assert.equal(new Set(registered.map(({ publicKey }) => publicKey)).size, 2);
    await assertFails(join(first(), url), 'unauthorized', 'used up');
  });

  it('is no way in without the server that it names', async () => {
    const { vpn: server } = await site.serve(SERVING);
    const { url } = await server.createInvite();
    const [address, key, token, pin] = url.split(/[#.](?=[\w-]{22})/);
    const wrong = (text) => `${text.startsWith('A') ? 'B' : 'A'}${text.slice(1)}`;
    await assertFails(join(first(), `${address}#${key}.${token}.${wrong(pin)}`), 'tls-untrusted', 'invite');
    await assertFails(join(first(), `${address}#${key}.${token}`), 'tls-untrusted', 'authorities');
    await assertFails(
      join(first(), `${address}#${wrong(key)}.${token}.${pin}`),
      'server-key-mismatch',
      'invite',
    );
    await assertFails(join(first(), `${address}#${key}.${wrong(token)}.${pin}`), 'unauthorized', 'invite');
    const error = await assertFails(
      join(first(), url.slice(0, -1)),
      'invalid-argument',
      'copy the invite whole',
    );
    assert.ok(!error.message.includes(token));
    await join(first(), url);
  });

  it('works without TLS', async () => {
    const plain = { tlsCert: undefined, tlsKey: undefined, publicUrl: `ws://${SERVER.address}:${PORT}/` };
    const { vpn: server } = await site.serve({ ...SERVING, ...plain });
    const { url } = await server.createInvite();
    assert.match(url, /^vpn\+ws:\/\/10\.90\.0\.2:8443\/#[\w-]{43}\.[\w-]{22}$/);
    const config = await join(first(), url);
    assert.equal(config.tlsCa, undefined);
    await site.connect({ ...config, tlsCa: undefined });
    assert.equal(await reaches(first(), TUNNEL.server), true);
  });

  it('never replaces a file', async () => {
    const { vpn: server } = await site.serve(SERVING);
    const { url } = await server.createInvite();
    await first().exec(['sh', '-c', `echo mine > ${FILE}`]);
    await assertFails(join(first(), url, { configPath: FILE }), 'file-error', FILE, 'already');
    assert.equal((await first().exec(['cat', FILE])).stdout, 'mine\n');
    await first().exec(['rm', FILE]);
    await join(first(), url);
  });

  it('is joined by the command line, without a word of it on a command line', async () => {
    const { vpn: server } = await site.serve(SERVING);
    const { url } = await server.createInvite();
    const argv = [process.execPath, BIN, 'join', '-', '--config', FILE];
    const { stdout } = await first().exec(argv, { input: `${url}\n` });
    assert.match(stdout, /^Joined wss:.*\n\nConnect:\n {2}npx smartvpn up \/run\/client\.json\n$/);
    await connect(first(), FILE);
    assert.equal(await reaches(first(), TUNNEL.server), true);
    const again = await second().exec(argv, { input: `${url}\n`, check: false });
    assert.equal(again.code, 1);
    assert.match(again.stderr, /^smartvpn: unauthorized: .*\n$/);
    await first().exec(['rm', FILE]);
  });

  async function join(host, ...args) {
    const agent = await site.agent(host);
    try {
      return await agent.run(async ({ load }, list) => (await load()).VpnClient.join(...list), args);
    } finally {
      await agent.close();
    }
  }

  /** Connects with a file, as it is. */
  async function connect(host, file) {
    const agent = await site.agent(host);
    const vpn = await agent.startedClient();
    const load = async (context, path) => (await context.load()).VpnConfig.loadFromFile(path);
    await vpn.connect(await agent.run(load, file));
    return { agent, vpn };
  }
});
