"""The economy of a site: wallets, the mana ledger and the services that change them."""
