from loraedit.app.cli import main

main()
