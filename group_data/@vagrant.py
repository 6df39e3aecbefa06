"""The machines of the Vagrantfile: `pyinfra @vagrant deploy.py`. pyinfra's Vagrant connector puts them into this group."""

# They come and go at the same addresses, each time with other keys, and nobody is between them and this machine.
ssh_strict_host_key_checking = "no"
ssh_known_hosts_file = "/dev/null"
