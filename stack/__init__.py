"""What a host shall get: settings, secrets and files of one deployment. Pure: knows no pyinfra, touches no host."""
