// What programs write, and what they get: compiled by types.test.js, never run.

import { once } from 'node:events';

import {
  VpnClient,
  VpnConfig,
  VpnError,
  VpnServer,
  type IVpnClientConfig,
  type IVpnClientInfo,
  type IVpnConnectionQuality,
  type IVpnExit,
  type IVpnInvite,
  type IVpnKeypair,
  type IVpnMtuInfo,
  type IVpnRegisteredClient,
  type IVpnServerConfig,
  type IVpnServerStatistics,
  type IVpnStatistics,
  type IVpnStatus,
  type TVpnDisconnectReason,
  type TVpnErrorCode,
  type TVpnTransportOptions,
} from 'smartvpn';

/** `same<Actual>()<Expected>()` compiles only if both are the same. */
function same<Actual>() {
  return function <Expected>(...different: Equal<Actual, Expected> extends true ? [] : [never]) {
    return different;
  };
}
type Equal<A, B> = [A, B] extends [B, A] ? (Exact<A> extends Exact<B> ? true : false) : false;
/** Tells `any` from all others, which is assignable both ways. */
type Exact<T> = 0 extends 1 & T ? 'any' : 'not any';

// @ts-expect-error -- they are not
same<string>()<number>();

const clientConfig: IVpnClientConfig = {
  serverUrl: 'wss://vpn.example.com:443/vpn',
  serverPublicKey: 'key',
  privateKey: 'key',
  token: 'token',
  dns: ['1.1.1.1'],
  mtu: 1420,
  keepaliveIntervalSecs: 30,
  routes: ['0.0.0.0/0'],
  tunName: 'vpn0',
  tlsCa: './ca.pem',
  proxy: 'http://me:secret@proxy.example.com:3128',
  name: 'laptop',
  connectTimeoutMs: 5000,
  congestionControl: 'system',
  stateDir: null,
  reconnect: { baseDelayMs: 100, maxDelayMs: 1000, maxAttempts: 5 },
};
const serverConfig: IVpnServerConfig = {
  listenAddr: '[::]:443',
  privateKey: 'a',
  publicKey: 'b',
  subnet: '10.8.0.0/24',
  subnet6: 'fd00::/64',
  tlsCert: 'cert.pem',
  tlsKey: 'key.pem',
  dns: [],
  mtu: 1420,
  keepaliveIntervalSecs: 30,
  enableNat: true,
  defaultRateLimitBytesPerSec: 1e6,
  defaultBurstBytes: 65536,
  maxClients: 10,
  clientToClient: false,
  path: '/vpn',
  handshakesPerSecond: 50,
  handshakeBurst: 400,
  tunName: 'vpn1',
  trustedProxies: ['127.0.0.1/32'],
  proxyProtocol: true,
  sessionGraceSecs: 0,
  auth: 'registered',
  clients: [
    {
      id: 'laptop',
      publicKey: 'key',
      name: 'Laptop',
      assignedIp: '10.8.0.9',
      rateLimitBytesPerSec: 1e6,
      burstBytes: 65536,
      expiresAt: '2030-01-01T00:00:00Z',
      maxSessions: 1,
      disabled: false,
    },
  ],
  authenticateTimeoutMs: 1000,
  publicUrl: 'wss://vpn.example.com/',
  congestionControl: 'auto',
  stateDir: '/tmp/x',
};

export const asking: IVpnServerConfig['authenticate'][] = [
  () => null,
  () => {},
  () => ({ clientId: 'laptop' }),
  async ({ publicKey, token, name, remoteAddr, signal }) => {
    signal.throwIfAborted();
    return token === 'x' ? { clientId: `${publicKey}${name}${remoteAddr}`, rateLimitBytesPerSec: 1e6 } : null;
  },
];

const transports: TVpnTransportOptions[] = [
  { transport: 'inprocess' },
  { transport: 'stdio' },
  { transport: 'stdio', daemonPath: '/usr/bin/smartvpn_daemon' },
  { transport: 'socket', socketPath: '/run/x.sock' },
  {
    transport: 'socket',
    socketPath: '/run/x.sock',
    autoReconnect: false,
    reconnectBaseDelayMs: 1,
    reconnectMaxDelayMs: 2,
    maxReconnectAttempts: 3,
  },
];
for (const transport of transports) new VpnClient({ transport });

const client = new VpnClient({ config: clientConfig });
same<ReturnType<typeof client.start>>()<Promise<boolean>>();
same<ReturnType<typeof client.connect>>()<Promise<import('smartvpn').IVpnAddresses>>();
const { assignedIp, assignedIp6 } = await client.connect(clientConfig, { signal: AbortSignal.timeout(1000) });
same<typeof assignedIp>()<string>();
same<typeof assignedIp6>()<string | undefined>();
same<ReturnType<typeof client.disconnect>>()<Promise<void>>();
same<ReturnType<typeof client.getStatus>>()<Promise<IVpnStatus>>();
same<ReturnType<typeof client.getStatistics>>()<Promise<IVpnStatistics>>();
same<ReturnType<typeof client.getConnectionQuality>>()<Promise<IVpnConnectionQuality>>();
same<ReturnType<typeof client.getMtuInfo>>()<Promise<IVpnMtuInfo>>();
same<ReturnType<typeof client.stop>>()<void>();
same<ReturnType<typeof client.close>>()<Promise<void>>();
same<typeof client.running>()<boolean>();
same<ReturnType<typeof VpnClient.join>>()<Promise<IVpnClientConfig>>();
VpnClient.join('vpn://x', { configPath: new URL('file:///etc/client.json'), name: 'laptop' });
same<ReturnType<VpnServer['addClient']>>()<Promise<IVpnRegisteredClient>>();
same<ReturnType<VpnServer['updateClient']>>()<Promise<IVpnRegisteredClient>>();
same<ReturnType<VpnServer['removeClient']>>()<Promise<void>>();
same<ReturnType<VpnServer['listRegisteredClients']>>()<Promise<IVpnRegisteredClient[]>>();
same<ReturnType<VpnServer['createInvite']>>()<Promise<IVpnInvite>>();
export const changes: Parameters<VpnServer['updateClient']>[1] = {
  name: null,
  disabled: true,
  publicKey: 'key',
};

client.ref().unref().connect();
client
  .on('exit', (end) => same<typeof end>()<IVpnExit>())
  .once('reconnected', () => {})
  .on('status', ({ state }) => state === 'reconnecting')
  .on('quality', ({ srttMs, linkHealth }) => srttMs > 100 && linkHealth === 'critical')
  .addListener('log', ({ level, target, message, time }) => [level, target, message, time])
  .prependListener('lost', ({ count }) => count > 0)
  .off('exit', () => {});
await once(client, 'exit');

const server = new VpnServer({ config: serverConfig, transport: { transport: 'inprocess' } });
same<ReturnType<typeof server.start>>()<Promise<void>>();
same<ReturnType<typeof server.stopServer>>()<Promise<void>>();
same<ReturnType<typeof server.getStatistics>>()<Promise<IVpnServerStatistics>>();
same<ReturnType<typeof server.listClients>>()<Promise<IVpnClientInfo[]>>();
same<ReturnType<typeof server.disconnectClient>>()<Promise<void>>();
same<ReturnType<typeof server.generateKeypair>>()<Promise<IVpnKeypair>>();
await server.start(serverConfig);
await server.start({ listenAddr: '0.0.0.0:443', subnet: '10.8.0.0/24', ...(await server.generateKeypair()) });
await server.setClientRateLimit('c1', 1e6, 65536);
await server.removeClientRateLimit('c1');
const { drops } = await server.getClientTelemetry('c1');
const spoofed: number | undefined = drops?.normal?.spoofed?.packets;
void spoofed;

server
  .on('client-connected', (info) => same<typeof info>()<IVpnClientInfo>())
  .on('client-resumed', ({ clientId }) => clientId)
  .on('client-disconnected', ({ clientId, reason }) => {
    same<typeof clientId>()<string>();
    same<typeof reason>()<TVpnDisconnectReason>();
  })
  .on('warning', ({ code, message, clientId }) => [code, message, clientId])
  .on('exit', ({ code, signal, error }) => {
    same<typeof code>()<number | null>();
    same<typeof signal>()<string | null>();
    same<typeof error>()<VpnError | undefined>();
  });

export async function scoped() {
  await using own = new VpnServer();
  await own.start();
}

const loaded = await VpnConfig.loadFromFile<IVpnServerConfig>('server.json');
same<typeof loaded>()<IVpnServerConfig>();
await VpnConfig.saveToFile(new URL('file:///tmp/c.json'), loaded);
const unknown: unknown = JSON.parse('{}');
VpnConfig.validateClientConfig(unknown);
same<typeof unknown>()<IVpnClientConfig>();

try {
  await client.connect();
} catch (error) {
  if (error instanceof VpnError) {
    same<typeof error.code>()<TVpnErrorCode>();
    same<typeof error.path>()<string | undefined>();
    if (error.code === 'timeout') console.log(error.message, error.cause);
  }
}
export const mine = new VpnError('internal', 'mine', { path: 'x', cause: new Error('because') });
