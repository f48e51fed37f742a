/** A server and its clients on a network of the lab, for the measuring programs. */
import { createAuthority } from '../scripts/certificates.mjs';
import { SERVER } from '../scripts/lab-site.mjs';

export const PORT = 8443;

/** The server's address in the tunnel. */
export const TUNNEL = '10.8.0.1';

const authority = createAuthority('smartvpn bench authority');
const certificate = authority.issue([SERVER.address]);

/**
 * Starts a daemon on the server and one on each host, and connects them.
 *
 * @param {Awaited<ReturnType<typeof import('../scripts/lab-site.mjs').openSite>>} site
 * @param {import('../scripts/lab.mjs').Host[]} hosts
 * @param {object} [settings] that both ends take, besides what they need
 * @returns {Promise<{ server: import('../scripts/lab-remote.mjs').RemoteVpn, close(): Promise<void> }>}
 */
export async function openTunnel(site, hosts, settings) {
  const common = { stateDir: null, ...settings };
  const serverAgent = await site.server.agent({ transport: 'stdio' });
  const server = await serverAgent.server();
  await server.start();
  const keys = await server.generateKeypair();
  await server.start({
    listenAddr: `${SERVER.address}:${PORT}`,
    ...keys,
    subnet: '10.8.0.0/24',
    tlsCert: certificate.certificate,
    tlsKey: certificate.key,
    ...common,
  });
  const agents = [];
  for (const host of hosts) {
    const agent = await host.agent({ transport: 'stdio' });
    agents.push(agent);
    const client = await agent.startedClient();
    await client.connect({
      serverUrl: `wss://${SERVER.address}:${PORT}/`,
      serverPublicKey: keys.publicKey,
      tlsCa: authority.certificate,
      ...common,
    });
  }
  return {
    server,
    async close() {
      for (const agent of agents) await agent.close();
      await serverAgent.close();
    },
  };
}
