from loraedit.cli.main import main

main()
