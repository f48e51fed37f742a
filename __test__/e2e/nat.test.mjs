/** NAT and forwarding on a host that has other servers and other people's firewalls. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { differences } from '../../scripts/lab-snapshot.mjs';
import { requires, serverConfig, SERVER, TUNNEL, useSite, WEB } from './support/site.mjs';
import { reaches } from './support/traffic.mjs';

const SECOND = { subnet: '10.9.0.0/24', listenAddr: `${SERVER.address}:8444` };
const SECOND_URL = `wss://${SERVER.address}:8444/`;

describe('NAT', { skip: requires() }, () => {
  const site = useSite({ clients: 2 });

  it('is off unless asked for', async () => {
    await site.serve({ enableNat: false });
    await site.connect();
    assert.equal(await reaches(site.client, TUNNEL.server), true);
    assert.equal(await reaches(site.client, WEB.address), false);
    const { firewall } = await site.server.snapshot();
    assert.deepEqual(
      firewall.filter(({ rule }) => JSON.stringify(rule ?? '').includes('masquerade')),
      [],
    );
  });

  it('is undone by stopServer()', async () => {
    const { vpn } = await site.serve({ subnet6: TUNNEL.subnet6 });
    await vpn.stopServer();
    await site.assertAsFound();
  });

  for (const [where, sameProcess] of Object.entries({ 'two processes': false, 'one process': true })) {
    it(`of two servers in ${where} does not end with one of them`, async () => {
      const subnet6 = ['fd08::/64', 'fd09::/64'];
      const first = await site.serve({ subnet6: subnet6[0] });
      const second = await site.serve(
        { ...SECOND, subnet6: subnet6[1] },
        sameProcess ? { agent: first.agent } : {},
      );
      const routes = [WEB.network, WEB.network6];
      await site.connect({ routes });
      await site.connect({ routes, serverUrl: SECOND_URL }, { host: site.clients[1] });
      for (const host of site.clients) {
        assert.equal(await reaches(host, WEB.address), true);
        assert.equal(await reaches(host, WEB.address6), true);
      }

      await first.vpn.stopServer();
      assert.equal(await reaches(site.client, WEB.address), false);
      assert.equal(await reaches(site.clients[1], WEB.address), true);
      assert.equal(await reaches(site.clients[1], WEB.address6), true);
      await second.vpn.stopServer();
      await site.assertAsFound(site.server);
    });
  }

  it('survives the SIGKILL of the other server, whose part the next start undoes', async () => {
    const first = await site.serve();
    const second = await site.serve(SECOND);
    await site.connect({ serverUrl: SECOND_URL });
    await first.agent.kill('SIGKILL');
    assert.equal(await reaches(site.client, WEB.address), true);
    const again = await site.serve(first.config);
    await again.vpn.stopServer();
    assert.equal(await reaches(site.client, WEB.address), true);
    await second.vpn.stopServer();
    await site.assertAsFound(site.server);
  });

  it('leaves forwarding on where it was on before', async () => {
    await site.server.sh('echo 1 > /proc/sys/net/ipv4/ip_forward');
    const { vpn } = await site.serve();
    await vpn.stopServer();
    const { stdout } = await site.server.exec(['cat', '/proc/sys/net/ipv4/ip_forward']);
    assert.equal(stdout.trim(), '1');
    await site.server.sh('echo 0 > /proc/sys/net/ipv4/ip_forward');
  });
});

describe('other people’s firewalls', { skip: requires() }, () => {
  const site = useSite();

  it('are warned of when they drop what is forwarded, with the command that mends it', async () => {
    await site.server.exec(['nft', '-f', '-'], {
      input: 'table inet foreign { chain forward { type filter hook forward priority 0; policy drop; }; }',
    });
    const { vpn } = await site.serve({ subnet6: TUNNEL.subnet6 });
    await site.connect({ routes: [WEB.network, WEB.network6] });
    assert.equal(await reaches(site.client, TUNNEL.server), true);
    assert.equal(await reaches(site.client, WEB.address), false);

    const warning = await vpn.event('warning');
    assert.equal(warning.code, 'forward-policy');
    assert.match(warning.message, /inet foreign forward/);
    const [, command] = /to mend it: (.+)$/.exec(warning.message);
    await site.server.sh(command);
    assert.equal(await reaches(site.client, WEB.address), true);
    assert.equal(await reaches(site.client, WEB.address6), true);

    await vpn.stopServer();
    const again = await site.serve();
    assert.deepEqual(again.vpn.seen('warning'), [], 'once mended there is no warning');
    await again.vpn.stopServer();
    await site.server.exec(['nft', 'delete', 'table', 'inet', 'foreign']);
  });

  it('and everything else of theirs stays untouched', async () => {
    await site.server.exec(['nft', '-f', '-'], {
      input: `
        table ip nat {
          chain post { type nat hook postrouting priority srcnat; ip saddr 192.0.2.0/24 masquerade; }
        }
        table inet filter {
          set allowed { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 }; }
          chain input { type filter hook input priority 0; ip saddr @allowed counter accept; }
          chain forward { type filter hook forward priority 0; policy accept; }
        }
      `,
    });
    await site.server.ip([
      'addr add 192.0.2.9/32 dev lo',
      'route add 198.51.100.0/24 via 203.0.113.2',
      'rule add from 192.0.2.9 table 77',
    ]);
    const before = await site.server.snapshot();
    const { vpn, agent } = await site.serve(serverConfig());
    await site.connect();
    assert.equal(await reaches(site.client, WEB.address), true);
    const during = await site.server.snapshot();
    assert.deepEqual(theirs(during), theirs(before));
    await vpn.stopServer();
    assert.deepEqual(differences(before, await site.server.snapshot()), []);
    await agent.close();
    await site.server.ip([
      'addr del 192.0.2.9/32 dev lo',
      'route del 198.51.100.0/24',
      'rule del from 192.0.2.9 table 77',
    ]);
    await site.server.sh('nft delete table ip nat; nft delete table inet filter');
  });
});

/** The rules in the tables that the test has made in others' names. */
function theirs({ firewall }) {
  return firewall.filter((item) => {
    const [{ table, name }] = Object.values(item);
    return ['nat', 'filter'].includes(table ?? name);
  });
}
