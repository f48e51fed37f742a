// What must not compile: each line under an `@ts-expect-error` is a mistake that the types find.

import {
  VpnClient,
  VpnConfig,
  VpnError,
  VpnServer,
  type IVpnClientConfig,
  type IVpnServerConfig,
  type TVpnErrorCode,
} from 'smartvpn';

const client = new VpnClient();
const server = new VpnServer();
const config: IVpnClientConfig = { serverUrl: 'ws://x/', serverPublicKey: 'key' };

// @ts-expect-error -- no event is named error
client.on('error', () => {});
// @ts-expect-error -- an event of servers
client.on('client-connected', () => {});
// @ts-expect-error -- an event of clients
server.once('quality', () => {});
// @ts-expect-error -- a listener for another event's data
client.on('status', (end: { code: number }) => end.code);
// @ts-expect-error -- reconnected tells nothing
client.on('reconnected', (what: string) => what);

// @ts-expect-error -- a required field is missing
client.connect({ serverUrl: 'ws://x/' });
// @ts-expect-error -- a field misspelt
client.connect({ ...config, keepAliveIntervalSecs: 30 });
// @ts-expect-error -- a field of the wrong type
client.connect({ ...config, mtu: '1420' });
// @ts-expect-error -- an invite is no configuration
client.connect('vpn://x');
// @ts-expect-error -- an answer without saying who it is
export const nobody: IVpnServerConfig['authenticate'] = async () => ({ assignedIp: '10.8.0.2' });
// @ts-expect-error -- yes is no answer
export const yes: IVpnServerConfig['authenticate'] = () => true;
// @ts-expect-error -- a client has a key
server.addClient({ id: 'laptop' });
// @ts-expect-error -- the id stays
server.updateClient('laptop', { id: 'desktop' });
// @ts-expect-error -- a value that is none of those
client.connect({ ...config, congestionControl: 'bbr' });
// @ts-expect-error -- the signal is an option
client.connect(config, AbortSignal.timeout(1));
// @ts-expect-error -- the configuration is an option
new VpnClient(config);
// @ts-expect-error -- a transport is an object
new VpnClient({ transport: 'stdio' });
// @ts-expect-error -- a socket needs a path
new VpnClient({ transport: { transport: 'socket' } });
// @ts-expect-error -- an option of another transport
new VpnServer({ transport: { transport: 'inprocess', socketPath: '/x' } });
// @ts-expect-error -- a child has no socket
new VpnClient({ transport: { transport: 'stdio', socketPath: '/x' } });
// @ts-expect-error -- a socket has no executable
new VpnServer({ transport: { transport: 'socket', socketPath: '/x', daemonPath: '/y' } });
// @ts-expect-error -- a number of milliseconds
new VpnClient({ transport: { transport: 'socket', socketPath: '/x', reconnectBaseDelayMs: '100' } });
// @ts-expect-error -- no such transport
new VpnClient({ transport: { transport: 'tcp' } });
// @ts-expect-error -- a server's configuration is not a client's
server.start(config);
// @ts-expect-error -- the burst is not optional
server.setClientRateLimit('c1', 1000);
// @ts-expect-error -- running is read only
client.running = true;
// @ts-expect-error -- there is nothing to construct
new VpnConfig();
// @ts-expect-error -- a code that does not exist
export const code: TVpnErrorCode = 'oops';
// @ts-expect-error -- an error has a code
export const error = new VpnError('something went wrong');
