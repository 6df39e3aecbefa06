"""Every knob of the deployment with its default.

Change one here for all hosts, in group_data/<group>.py for some, in the inventory for one host.
Dify's own settings (LOG_LEVEL, S3_BUCKET_NAME, ...) go into .env, env/<group>.env and env/<host>.env; they may stand here too,
LOG_LEVEL = "DEBUG", so names in capitals are theirs: begin a constant of your own with _. docs/settings.md has the order.
"""

from tasks.connection import transport
from tasks.inventory import refuse_no_hosts

refuse_no_hosts()

# --- What is deployed ---

# The release: a folder below stack/releases/.
dify_version = "1.11.4"
# Where configuration and data lie on the host.
root = "/opt/dify"
# Compose project: names containers, networks and volumes, so that two instances fit on one host.
project = "dify"
# Where browsers find Dify: "https://dify.example.com", with a port if it is not the usual one. All of Dify's own addresses
# follow from it. Empty: pages and api work under any name, but links in mails, files and webhooks say localhost or nothing.
public_url = ""
# Whom the first account is for: {"email": "admin@example.com", "name": "Admin"}. It is made before anybody can reach Dify, and its
# password is shown once. Empty: whoever knows INIT_PASSWORD makes it at /install.
admin: dict[str, str] = {}
# How much of the host Dify may use: "small" (4 GiB of memory), "medium" (8), "large" (16 and more) or "auto". Empty: the
# release's own worker counts and no container limits, because a limit stops what ran well without one.
size = ""
# Days that workflow runs and the messages in them are kept; they are what fills the disk. 0: for ever. A host that kept
# them until now goes on keeping them until WORKFLOW_LOG_CLEANUP_ENABLED=true stands in .env.
workflow_log_retention_days = 30
# Compose profiles to bring up besides those that VECTOR_STORE and DB_TYPE need.
profiles: list[str] = []
# "dify", or "middleware" for developers: only what Dify needs around it, for an api, worker and web that run elsewhere.
mode = "dify"
# In middleware mode: the address of the host that databases and the rest are published on. They hold no more than their
# passwords against whoever reaches it.
middleware_address = "127.0.0.1"

# --- Images ---

# Another image for a service: {"nginx": "nginx:1.29.1"}. The release's own stand in stack/releases/<version>/images.yaml.
images: dict[str, str] = {}
# api, web, plugin_daemon and sandbox of two releases: plugins vanish, so an override with another tag is refused.
allow_mixed_images = False
# Mirrors of registries: {"docker.io": "registry.example.com/hub", "quay.io": ...}, or one string for all of them.
image_registry: str | dict[str, str] = {}
# {"registry.example.com": {"username": ..., "password": os.environ["REGISTRY_PASSWORD"]}}
registry_login: dict[str, dict[str, str]] = {}

# --- Docker on the host ---

# Where Docker comes from when it is missing. "docker": Docker's own repository, the only way on Debian 11 and 12, RHEL,
# Rocky and Alma. "distro": the system's packages. "present": it is there, leave it alone.
docker_source = "docker"
# Docker's package repository, or a mirror of it.
docker_repository = "https://download.docker.com/linux"
# Fingerprint of the key that signs it, for a mirror that signs anew with its own. Empty: Docker's.
docker_repository_key = ""
# Of one container's log file, and how many of them are kept: without limits, logs fill the disk.
docker_log_max_size = "50m"
docker_log_max_file = 3
# Mirrors of docker.io that dockerd tries first: ["https://mirror.example.com"]
docker_registry_mirrors: list[str] = []
# Registries without TLS: ["registry.lan:5000"]
docker_insecure_registries: list[str] = []
# How dockerd reaches registries: {"http": ..., "https": ..., "no_proxy": ...}
docker_proxy: dict[str, str] = {}
# When 172.17.0.0/12 is in use around the host: [{"base": "10.201.0.0/16", "size": 24}]
docker_address_pools: list[dict[str, str | int]] = []

# --- HTTPS ---

# "off": http, or a certificate that you lay into nginx/ssl yourself. "own": yours, from here, below. "letsencrypt": one that
# certbot fetches and renews; needs CERTBOT_EMAIL in .env, port 80 open, and public_url with https and a name that leads to the
# host. "proxy": another proxy in front ends TLS. docs/https.md has all four.
tls = "off"
# With tls = "own": files on this machine in PEM, seen from inventory.py's folder. The server's certificate, then those between it
# and its authority; and its key, without a passphrase.
tls_certificate = ""
tls_key = ""
# With tls = "letsencrypt", who is asked: "letsencrypt", "staging" (its test server, which browsers do not trust), or another
# ACME server: "https://ca.example.com/acme/directory"; what signed the certificate of that server itself goes into ca_certificates.
acme_server = "letsencrypt"
# Before it is asked, a host tries whether http://<its name> leads to itself. False where it cannot reach itself by that name.
acme_check = True
# Seconds that browsers shall refuse to come without https once they came with it: 31536000 is a year, and cannot be taken back
# before. 0: they are not told to.
hsts = 0
# With tls = "proxy": the addresses or networks that it asks from, ["192.0.2.10"]; who it says asks is believed, nobody else is.
# Docker shows what runs on the same host as the gateway of the network `default`: `docker network inspect dify_default`.
trusted_proxies: list[str] = []

# --- Secrets ---

# Where the secrets live that are made for a host. "host": in `root`/.env on it. "file": there, and in secrets/<host>.age beside the
# inventory, so that a host that is lost can be made again with the same ones. docs/secrets.md has what goes into git.
secrets = "host"
# With "file": the file that your age or SSH key lies in, as ~/.config/age/key.txt; and the public keys of others who may read
# them: ["age1...", "ssh-ed25519 ..."]
age_identity = ""
age_recipients: list[str] = []
# With "file", a vault instead of age: {"read": "vault-read", "write": "vault-write"}, programs of yours with their arguments. They
# find the host's name in DIFY_HOST; one prints NAME=value lines (nothing while there is no entry), the other is given all of them.
secrets_command: dict[str, str | list[str]] = {}

# --- What can be reached ---

# Further ports to publish besides nginx's: {"plugin_daemon_debug": "10.0.0.5:5003"}, by name and with the address they are bound
# to. docs/exposure.md has the names. Only the service's own password stands before it.
expose: dict[str, str] = {}
# "docker-user": of all that containers of the host publish, other machines reach nginx, what `expose` opens and what
# firewall_allow lists, over IPv4 and IPv6; that of containers which are not ours too is closed unless it is listed. What is no
# container's, SSH above all, is left alone. "off": Docker publishes past ufw and firewalld, whatever they say.
firewall = "off"
# With firewall = "docker-user": ports that others publish, "8443" or "53/udp"; and from where alone a port may be reached, by
# number or name: "plugin_daemon_debug from 203.0.113.0/24", "nginx from 10.0.0.0/8". Several lines for one port add up.
firewall_allow: list[str] = []

# --- What Dify may reach ---

# Workflows and the code in them reach the outside by the SSRF proxy alone, which refuses private addresses, those of the host and
# of the cloud's metadata. Open all the same: ["10.0.5.0/24", "wiki.example.com:8443", ".example.lan"], at the port or at all.
ssrf_allow: list[str] = []
# Where HTTPS may go beside port 443: [8443]
ssrf_connect_ports: list[int] = []
# When not empty, nothing but these and what ssrf_allow names: ["api.example.com", ".example.org"]. The marketplace's address is
# added, unless MARKETPLACE_ENABLED=false.
ssrf_allowed_domains: list[str] = []
# The proxy that leads out, where there is no other way: "http://user:password@proxy.example.com:3128"
ssrf_upstream_proxy = ""

# --- What a host must have ---

# Dify's own minimum. A machine sold with 4 GiB shows a little less, which is accepted.
min_cpus = 2
min_memory = "4GiB"
# Free below `root` and below Docker's data root before the first deploy; a tenth of it for each later one.
min_disk_root = "5GiB"
min_disk_docker = "10GiB"

# --- The host itself ---

# True: its system's security updates come by themselves, without a reboot and without Docker's, which would stop all containers;
# and its clock is kept right. Hosts that upgrade themselves already go on in their own way. False removes nothing.
harden = False

# --- Behaviour ---

# Seconds until Dify must answer after a start.
answer_timeout = 300
# Names in .env that this release does not know and that shall reach the api's containers all the same.
allow_unknown_settings: list[str] = []
# Authorities of your own, in PEM, that signed the certificates of services elsewhere: Path("ca.pem").read_text()
ca_certificates = ""

# --- Connection ---

# Every step needs root; harmless when ssh_user is root.
_sudo = True
# No pause of 40 ms for each command, and a keepalive during long pulls.
ssh_paramiko_connect_kwargs = {"transport_factory": transport}
